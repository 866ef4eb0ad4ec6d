"""Nobody has a state when a run begins that takes over another one's: all have it from the store.
Whoever is lost meanwhile, the run ends, is given again by its plans, and began with that state."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import torch

from checkfree.core.ops import FAULTS
from checkfree.core.records import dumps
from checkfree.messages.control import INIT
from checkfree.messages.tensors import StageState
from checkfree.runtime.recorded import RecordedFaults, RecordedRepairs, script
from checkfree.worker import StageWorker
from tests.chaos.chaos import Chaos, Plan, measured
from tests.chaos.test_last_rung import TERMS, last
from tests.tiny import Run, same_states, worker_context

SEEDS, CHUNKS = 40, 4


def plan_of(seed: int) -> Plan:
    """Losses from the first message on, most of them while states are handed out."""
    rng, plan = random.Random(seed + 11), Plan.of(seed)
    shape = {"recovery": "none", "stages": rng.choice((2, 3)), "replicas": 1 + (seed % 4 == 3)}
    kills: list[Any] = [(None, rng.randrange(1, 25)) for _ in range(rng.choice((0, 1, 3)))]
    kills.append((None, rng.randrange(1, 150)))
    return Plan(plan.seed, shape, kills, {**TERMS, "initial": True})


def states_of(plan: Plan) -> dict[int, StageState]:
    """Of another run, of another seed."""
    other = worker_context(plan.seed + 1000, plan.strategy(), chunks=plan.chunks)
    return {stage: other.make(stage, stage).snapshot() for stage in range(plan.shape["stages"] + 1)}


def bare(plan: Plan, run: Run) -> Run:
    """Before it begins: nobody has a state, the store has all."""
    run.store.shelve(INIT, 0, states_of(plan), {})
    run.lead.members.empty(list(run.lead.members.alive))
    context = worker_context(plan.seed, plan.strategy(), chunks=plan.chunks)
    for seat, actor in list(run.runtime.actors.items()):
        if isinstance(actor, StageWorker):
            run.runtime.actors[seat] = StageWorker(seat, 0, context, uninitialized=True)
    return run


def filled(plan: Plan, run: Run) -> Run:
    """As one process begins: each has its state, and the store has them, too."""
    run.store.shelve(INIT, 0, states_of(plan), {})
    for seat, actor in run.runtime.actors.items():
        if isinstance(actor, StageWorker):
            actor.stage.restore(states_of(plan)[seat.stage])
    return run


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_run_begins_with_it_ends_and_equals_its_replay(chunk: int) -> None:
    torch.set_num_threads(1)
    lost_at_once = 0
    for seed in range(chunk, SEEDS, CHUNKS):
        plan = plan_of(seed)
        chaos = Chaos(plan)
        bare(plan, chaos.run)
        run = chaos.play()
        assert run.lead.done, (seed, run.lead.failure, run.lead.phase)
        kinds = [record.kind for record in run.log.records]
        assert "recovery" not in kinds[: kinds.index("plan") + 1], seed
        lost_at_once += bool(run.of_kind("failure")) and kinds.index("failure") < kinds.index(
            "plan"
        )
        plain = filled(plan, plan.run(plan.strategy()))
        plain.runtime.run()
        assert run.losses()[0] == plain.losses()[0], seed
        if plan.shape["replicas"] == 1:  # else sums are of other summands while one is away
            assert last(run.losses()) == last(plain.losses()), seed
            assert same_states(plain.states(), run.states()), seed
        again = replayed(plan, run)
        assert measured(again) == measured(run), seed
    assert lost_at_once


def replayed(plan: Plan, run: Run) -> Run:
    """From its plans, begun as one process begins."""
    steps = script([json.loads(dumps(record)) for record in run.log.records])
    strategy = RecordedRepairs(plan.strategy(), steps)
    again = plan.run(strategy, faults=lambda host: RecordedFaults(host, steps))
    filled(plan, again)
    began = run.of_kind("plan")[0].members
    for seat in [seat for seat in again.lead.members.alive if str(seat) not in began]:
        again.lead.members.leave(seat)  # nobody sat there when it began
        del again.runtime.actors[seat]
    again.runtime.run(again.runtime.actors[FAULTS].watch)
    return again


def test_a_state_that_is_damaged_ends_it_with_the_reason() -> None:
    plan = plan_of(0)
    run = bare(plan, plan.run(plan.strategy()))
    name = next(name for name in run.files.data if name.endswith("stage-1.safetensors"))
    run.files.data[name] = run.files.data[name][:-1]
    run.runtime.run()
    assert "the state that the run began with is damaged" in run.lead.failure
    assert not run.lead.done and not run.of_kind("iteration")

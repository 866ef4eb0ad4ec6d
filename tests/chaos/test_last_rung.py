"""Where the strategy gives up a swarm goes back to its newest snapshot, which was made beside its
training: every run ends, its plans give it again, and a run that only goes back has in the end what
one has that lost nothing."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

from checkfree.messages.control import SNAPSHOT
from tests.chaos.chaos import Chaos, Plan, measured, replay
from tests.chaos.test_leaving import undisturbed
from tests.tiny import same_states

TERMS = {
    "iterations": 7,
    "max_ticks": 200,
    "resume_every": 2,
    "background": True,
    "last_rung": True,
}
SEEDS, CHUNKS = 40, 4


def plan_of(seed: int) -> Plan:
    """Of two seeds one can recover nothing; the others lose neighbours together."""
    rng, plan = random.Random(seed + 5), Plan.of(seed)
    name = ("none", "checkfree")[seed % 2]
    shape = {"recovery": name, "stages": rng.choice((2, 3, 4)), "replicas": 1 + (seed % 8 == 7)}
    kills = [(None, rng.randrange(1, 200)) for _ in range(rng.choice((1, 2, 4)))]
    return Plan(plan.seed, shape, kills, TERMS)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_run_ends_and_equals_its_replay(chunk: int) -> None:
    torch.set_num_threads(1)
    versions: Counter[int] = Counter()
    for seed in range(chunk, SEEDS, CHUNKS):
        plan = plan_of(seed)
        run = Chaos(plan).play()
        assert run.lead.done, (seed, run.lead.failure, run.lead.phase)
        rebuilds = [made for r in run.of_kind("recovery") for made in r.rebuilds.values()]
        gone_back = {
            r.resume_at
            for r in run.of_kind("recovery")
            if SNAPSHOT in {m.recipe.rule for m in r.rebuilds.values()}
        }
        versions.update(gone_back)
        if plan.shape["recovery"] == "none" and plan.shape["replicas"] == 1:
            assert {made.recipe.rule for made in rebuilds} <= {SNAPSHOT}
            plain = undisturbed(plan)
            assert last(run.losses()) == last(plain.losses()), seed
            assert same_states(plain.states(), run.states()), seed
        again = replay(plan, run)
        assert measured(again) == measured(run), seed
        states, others = run.states(), again.states()
        both = states.keys() & others.keys()  # a seat may have come back after the last step
        assert same_states({s: states[s] for s in both}, {s: others[s] for s in both}), seed
    assert versions[0] > 0  # before there was one
    assert sum(n for version, n in versions.items() if version) > 0


def last(losses: list[tuple[int, int, float]]) -> dict[int, float]:
    """Of each iteration, as it counts in the end."""
    return {iteration: loss for _, iteration, loss in losses}

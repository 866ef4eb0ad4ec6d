"""The lead dies between any two deliveries: the same numbers, records and weights come out."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

from checkfree.lead import History, Takeover, history
from checkfree.messages.control import Joined, Lost, Rollcall, Standing
from checkfree.ops import Address
from tests.chaos.chaos import measured
from tests.chaos.takeovers import Mutiny, Shape, told
from tests.tiny import same_states

SHAPES = (
    Shape("checkfree_plus", stages=4, losses=((1, Address(1)), (2, Address(0)))),
    Shape("checkpoint"),
    Shape("redundant", losses=((1, Address(1)),)),
    Shape("checkfree", stages=2, replicas=2, losses=((1, Address(1, 1)), (2, Address(0)))),
)
BY_NAME = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.recovery)
SEEDS = 25


@BY_NAME
def test_killed_anywhere(shape: Shape) -> None:
    torch.set_num_threads(1)
    undisturbed = shape.run()
    undisturbed.runtime.run()
    assert undisturbed.lead.done
    for place in range(1, undisturbed.runtime.delivered):
        run = Mutiny(shape, [place], sent=place % 2 == 0).play()
        assert run.lead.done, (place, run.lead.phase, run.lead.failure)
        assert told(run) == told(undisturbed), place
        assert same_states(run.states(), undisturbed.states()), place


@BY_NAME
def test_killed_again_and_seats_with_it(shape: Shape) -> None:
    """During a takeover, a repair, a commit; with a seat at once. What came of it is replayed."""
    torch.set_num_threads(1)
    ends: Counter[bool] = Counter()
    for seed in range(SEEDS):
        draw = random.Random(seed)
        kills = [draw.randrange(1, 200)]
        kills += [draw.choice((1, 2, 3, 5, 9, 20, 40)) for _ in range(draw.randrange(4))]
        seats = [Address(draw.randrange(shape.stages + 1))] * draw.randrange(2)
        mutiny = Mutiny(shape, kills, seed % 2 == 0, seats)
        run = mutiny.play()
        assert run.lead.done or run.lead.failure, f"seed {seed} stalls while {run.lead.phase}"
        ticks = [tick for kind, tick, _, _ in measured(run) if kind == "iteration"]
        assert ticks == list(range(len(ticks))), f"seed {seed}"
        again = mutiny.replayed()
        assert measured(again)[: len(measured(run))] == measured(run), f"seed {seed}"
        assert run.lead.failure or same_states(again.states(), run.states()), f"seed {seed}"
        ends[run.lead.done] += 1
    assert ends[True] >= 0.7 * SEEDS, ends


# --- what is heard and what is not ---------------------------------------------------------------

ONE, TWO = Address(1), Address(2)


def standing(seat: Address, life: int = 0, lead: int = 3) -> Standing:
    return Standing(lead, seat, life, False, 0, 5)


def test_only_those_who_sit_there_are_heard() -> None:
    takeover = Takeover(3, History(), {ONE: 0, TWO: 1})
    assert takeover.calls() == [(ONE, Rollcall(3)), (TWO, Rollcall(3))]
    assert takeover.calls() == []
    for stray in (standing(ONE, lead=2), standing(TWO, life=0)):
        takeover.deliver(stray)
        assert not takeover.standings
    takeover.deliver(standing(ONE))
    takeover.deliver(Lost(TWO, 0))
    assert not takeover.complete
    takeover.deliver(Lost(TWO, 1))
    assert takeover.complete
    takeover.deliver(Joined(TWO, 2))
    assert takeover.calls() == [(TWO, Rollcall(3))]
    takeover.deliver(standing(TWO, life=2))
    assert takeover.complete
    assert takeover.epoch() == 6


def test_a_worker_answers_no_earlier_lead() -> None:
    run = SHAPES[1].run()
    worker = run.runtime.actors[ONE]
    for lead, answers in ((1, True), (1, True), (0, False), (2, True)):
        worker.deliver(Rollcall(lead))
        (answer,) = worker.advance() or [None]
        assert (answer is not None) == answers


def test_nothing_written_is_a_beginning() -> None:
    assert history([], {}) == History()


@pytest.mark.parametrize(
    ("rollback", "good"),
    [({"tick": 5, "iteration": 2}, (2,)), ({"tick": 3, "iteration": 2}, (2, 4))],
    ids=["after it", "before it"],
)
def test_a_rollback_outdates_later_checkpoints(
    rollback: dict[str, int], good: tuple[int, ...]
) -> None:
    plan = {"kind": "plan", "epoch": 1, "members": {"1.0": 0}}
    made = {"rule": "checkpoint", "sources": [], "bytes": 0}
    records = [{**plan, **rollback, "rebuilds": {"1.0": made}}]
    assert history(records, {2: 2, 4: 4}).progress.checkpoints == good

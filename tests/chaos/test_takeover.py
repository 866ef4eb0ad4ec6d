"""The lead dies between any two deliveries: the same numbers, records and weights come out."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

from checkfree.core.errors import RunFailed
from checkfree.core.ops import Address, Transfer
from checkfree.lead import History, Lead, Phase, Progress, Takeover, Terms, history
from checkfree.lead.history import Ran
from checkfree.lead.membership import Membership
from checkfree.messages.control import (
    Commit,
    ForReplays,
    Joined,
    Kept,
    Lost,
    Message,
    Rollcall,
    Standing,
    Ticket,
    Unlogged,
)
from checkfree.pipeline import one_f_one_b
from checkfree.recovery.replay.rule import LogAndReplay
from checkfree.recovery.replay.terms import ReplayTerms
from tests.chaos import SOAK
from tests.chaos.chaos import measured
from tests.chaos.takeovers import Mutiny, Quitting, Shape, Wandering, told
from tests.tiny import same_states

SHAPES = (
    Shape("checkfree_plus", stages=4, losses=((1, Address(1)), (2, Address(0)))),
    Shape("checkpoint"),
    Shape("redundant", losses=((1, Address(1)),)),
    Shape("checkfree", stages=2, replicas=2, losses=((1, Address(1, 1)), (2, Address(0)))),
)
SHADOWS = Shape(
    "auto",
    stages=3,
    losses=((5, Address(1)), (10, Address(0)), (11, Address(2))),
    iterations=12,
    shadow_format="signs",
)
"""The last goes on from a change, which an owner sends only of what its holder really has."""
BY_NAME = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.recovery)
SEEDS = 250 if SOAK else 12


@BY_NAME
def test_killed_anywhere(shape: Shape) -> None:
    torch.set_num_threads(1)
    undisturbed = shape.run()
    undisturbed.runtime.run()
    assert undisturbed.lead.done
    places = range(1, undisturbed.runtime.delivered)
    for place in places if SOAK else random.Random(shape.recovery).sample(places, len(places) // 3):
        run = Mutiny(shape, [place], sent=place % 2 == 0).play()
        assert run.lead.done, (place, run.lead.phase, run.lead.failure)
        assert told(run) == told(undisturbed), place
        assert same_states(run.states(), undisturbed.states()), place


def test_killed_while_shadows_travel() -> None:
    """While pushes are ordered, and anywhere else: they count as if nothing had been."""
    torch.set_num_threads(1)
    undisturbed, near = SHADOWS.run(), set[int]()
    runtime = undisturbed.runtime

    def watch(to: Address, message: Message) -> None:
        """What is pushed for this Commit arrives after the roll call."""
        if isinstance(message, Commit):
            near.add(runtime.delivered - 1)

    runtime.run(watch)
    assert undisturbed.lead.done
    rules = [m.recipe.rule for r in undisturbed.of_kind("recovery") for m in r.rebuilds.values()]
    assert rules == ["shadow", "shadow", "shadow"]
    others = random.Random(0).sample(range(1, runtime.delivered), 16)
    for place, sent in [*((place, True) for place in sorted(near)), *((p, False) for p in others)]:
        run = Mutiny(SHADOWS, [place], sent).play()
        assert run.lead.done, (place, run.lead.phase, run.lead.failure)
        assert told(run) == told(undisturbed), place
        assert same_states(run.states(), undisturbed.states()), place


@pytest.mark.parametrize("shape", (*SHAPES, SHADOWS), ids=lambda shape: shape.recovery)
def test_killed_again_and_seats_with_it(shape: Shape) -> None:
    """During a takeover, a repair, a commit; with a seat at once. What came of it is replayed."""
    torch.set_num_threads(1)
    ends: Counter[bool] = Counter()
    for seed in range(SEEDS):
        draw = random.Random(seed)
        kills = [draw.randrange(1, 60 * shape.iterations)]
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


def test_ways_outlive_a_lead() -> None:
    """They stand in the plan: the next lead goes on with them, also through a loss."""
    torch.set_num_threads(1)
    shape = Shape("checkfree", replicas=2, losses=((2, Address(1)),), iterations=4)
    kept = 0
    for seed in range(4 * SEEDS):
        draw = random.Random(seed)
        turns = [draw.randrange(1, 150) for _ in range(2)]
        kills = [draw.randrange(1, 200) for _ in range(draw.randrange(1, 3))]
        mutiny = Wandering(shape, kills, seed % 2 == 0, turns=turns)
        run = mutiny.play()
        assert run.lead.done, (seed, run.lead.phase, run.lead.failure)
        again = mutiny.replayed()
        assert measured(again) == measured(run), f"seed {seed}"
        assert same_states(again.states(), run.states()), f"seed {seed}"
        plans = [place for place, r in enumerate(run.log.records) if r.kind == "plan" and r.routes]
        kept += bool(plans) and mutiny.lead_life > 0
    assert kept >= 2 * SEEDS, kept


@pytest.mark.parametrize("replicas", [1, 2])
def test_who_asked_to_leave_asks_the_new_lead_too(replicas: int) -> None:
    torch.set_num_threads(1)
    shape, left = Shape("checkfree", stages=2, replicas=replicas, losses=()), 0
    for at in range(2, 60, 4):
        mutiny = Quitting(shape, [at + 1 + at % 3], at % 8 == 2, asks=(at, Address(1)))
        run = mutiny.play()
        assert run.lead.done, (at, run.lead.phase, run.lead.failure)
        assert mutiny.dismissed == 1, at
        again = mutiny.replayed()
        assert measured(again) == measured(run), at
        assert same_states(again.states(), run.states()), at
        left += not run.of_kind("failure")
    assert left > 10


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


def test_a_seat_that_is_in_no_plan_is_one_of_the_run() -> None:
    """The last plan was made while others were still being rebuilt."""
    first, last = Address(0), Address(1)
    takeover = Takeover(3, History(members={first: 0}), {first: 0, last: 0})
    takeover.deliver(standing(first))
    takeover.deliver(replace(standing(last), uninitialized=True))
    members = takeover.members()
    assert members.whole()
    members.lose(last, 0)
    assert not members.whole()


@pytest.mark.parametrize("first", [0, 1])
def test_a_log_that_is_lost_while_nobody_leads_is_not_counted_on(first: int) -> None:
    """Whether it is told before or after how its seat stands."""
    seats = {Address(stage): 0 for stage in range(3)}
    ran = {i: Ran(frozenset(seats), dict.fromkeys(range(3), 1.0), {}) for i in range(5)}
    found = History(Progress(committed=5, tick=5, notes=1), seats, passed=ran)
    takeover = Takeover(3, found, dict(seats))
    strategy = LogAndReplay(ReplayTerms())
    terms = Terms(iterations=9, microbatches=2, schedule=one_f_one_b)
    lead = Lead(Membership(seats), strategy, terms, found.progress, takeover)
    lead.advance()
    kept = ForReplays(0, 0)
    told = [replace(standing(ONE), version=5, replayable=kept), Unlogged(ONE, 0, 4)]
    for message in (told[first], told[1 - first]):
        lead.deliver(message)
    for seat in seats.keys() - {ONE}:
        lead.deliver(replace(standing(seat), version=5, replayable=kept))
    lead.advance()
    assert lead.phase is not Phase.ROLLCALL
    logged = {seat: lead._lead_state.replays.logged(seat.stage, seats) for seat in seats}
    assert logged == {seat: {seat: 4 if seat == ONE else 0} for seat in seats}


def test_records_that_lack_more_than_a_step_are_told() -> None:
    """A step that everybody took is written down; of two, the first is lost."""
    run = SHAPES[1].run()
    run.runtime.run()
    record = run.of_kind("iteration")[1]
    told = replace(standing(ONE), committed=Commit(Ticket(0, record.iteration), {}, record))
    for tick, fails in ((1, False), (0, True)):
        progress = Progress(committed=tick, tick=tick)
        takeover = Takeover(3, History(progress), {ONE: 0}, standings={ONE: told})
        if fails:
            with pytest.raises(RunFailed, match=r"records.jsonl ends at tick 0, .* to tick 2"):
                takeover.unwritten()
        else:
            assert takeover.unwritten() == record


def test_a_worker_answers_no_earlier_lead() -> None:
    run = SHAPES[1].run()
    worker = run.runtime.actors[ONE]
    for lead, answers in ((1, True), (1, True), (0, False), (2, True)):
        worker.deliver(Rollcall(lead))
        (answer,) = worker.advance() or [None]
        assert (answer is not None) == answers


def test_a_copy_for_replays_is_no_shadow() -> None:
    """It arrives while nobody leads, and before anybody has stepped."""
    takeover = Takeover(3, History(), {ONE: 0, TWO: 0})
    for what in ("state", "int8"):
        takeover.deliver(Kept(5, Transfer(ONE, TWO, what), 4))
    assert [push.keep.what for push in takeover.shadowing().pushes()] == ["int8"]


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

"""What waves and replays take on a fleet, against figures worked out by hand."""

from __future__ import annotations

import math

import pytest

from checkfree.core.cost import Priced
from checkfree.core.ops import Address, Course, Recipe, Transfer
from checkfree.lead import Terms
from checkfree.messages.control import WAVE, Again, Push, Rebuild
from checkfree.pipeline import gpipe
from checkfree.pipeline.routes import in_order
from checkfree.recovery.replay.rule import LogAndReplay
from checkfree.recovery.replay.terms import ReplayTerms
from checkfree.recovery.rungs import REPLAY
from checkfree.simulator.background import BackgroundCopies
from checkfree.simulator.failure_schedule import TickStrikes
from checkfree.simulator.fleet import Fleet, Link
from checkfree.simulator.rehearse import RehearsalSetting, rehearse
from checkfree.simulator.replays import replay_seconds, resent
from checkfree.simulator.sizes import ComputePace, Sizes, StagePart

BODY, NOTHING = StagePart(forward=1.0, backward=2.0, shadow=1.0), StagePart(0.0, 0.0, 0.0)
ONE, TWO, THREE = Address(1), Address(2), Address(3)


def fleet(link: Link, **changes: object) -> Fleet:
    plain = Fleet("test", lambda one, other: link, 1, 1.0, 0.0, 0.0, 1.0)
    return Fleet(**{**vars(plain), **changes})  # type: ignore[arg-type]


def sizes(stages: int, activation: int = 0, params: int = 0) -> Sizes:
    none, same = (0,) * (stages + 1), (params,) * (stages + 1)
    return Sizes("test", activation, activation, same, none, none, 0.0, (0.0,) * stages, 0.0)


def pace(stages: int, step: float = 0.0) -> ComputePace:
    return ComputePace(NOTHING, (BODY,) * stages, NOTHING, (step,) * (stages + 1))


def copy(owner: Address, holder: Address, version: int = 4) -> Push:
    return Push(0, Transfer(owner, holder, "state"), version, WAVE)


# --- waves ---------------------------------------------------------------------------------------


def test_a_copy_has_what_training_leaves_of_its_line() -> None:
    """100 bytes at 10 a second are 10 s of the line, and 0.5 s of latency; of an iteration's 8 s
    training takes 6."""
    copies, sent = BackgroundCopies(fleet(Link(0.5, 10.0))), copy(ONE, THREE)
    copies.send(sent, 100)
    busy = {(ONE, THREE): 6.0}
    assert [copies.passed(8.0, busy) for _ in range(5)] == [[]] * 5
    assert copies.next_arrival() == pytest.approx(0.5)
    assert copies.passed(8.0, busy) == [sent]
    assert copies.next_arrival() == math.inf


def test_copies_of_one_line_queue_and_those_of_others_do_not() -> None:
    first, second = copy(ONE, THREE), copy(ONE, TWO)
    apart = BackgroundCopies(fleet(Link(0.0, 10.0)))
    shared = BackgroundCopies(fleet(Link(0.0, 10.0), shared_uplink=True))
    for copies in (apart, shared):
        copies.send(first, 100)
        copies.send(second, 100)
    assert apart.passed(10.0, {}) == [first, second]
    assert shared.passed(10.0, {}) == [first]
    assert shared.passed(10.0, {(ONE, ONE): 4.0}) == []
    assert shared.passed(4.0, {}) == [second]


def test_what_is_dropped_leaves_the_line_to_others() -> None:
    copies, kept = BackgroundCopies(fleet(Link(0.0, 10.0))), copy(ONE, THREE, version=8)
    copies.send(copy(ONE, THREE), 100)
    copies.send(kept, 50)
    copies.drop(lambda order: order.version < 8)
    assert copies.passed(5.0, {}) == [kept]


# --- replays -------------------------------------------------------------------------------------


def rebuild(seat: Address, stages: int, microbatches: int, steps: int) -> tuple[Address, Rebuild]:
    """Of iterations 4 … 4 + steps, which all ran in order."""
    routes = in_order([Address(stage) for stage in range(stages + 1)], microbatches)
    own = {worker: ops for worker, ops in gpipe(routes).items() if worker == seat}
    again = Again(4, (Course(routes, own),), ((0, 1.0, 0.0),) * steps, ())
    return seat, Rebuild(0, 0, Recipe(REPLAY, ()), 9, 4 + steps, again)


def test_a_replay_takes_the_stages_own_work_where_lines_are_fast() -> None:
    """Two microbatches of 1 + 2 s and a step of 0.25 s, three times; 20 bytes take 0.2 s."""
    orders = [rebuild(TWO, 3, 2, steps=3)]
    found = replay_seconds(orders, fleet(Link(5.0, 100.0)), sizes(3, 20), pace(3, 0.25))
    assert found == pytest.approx(3 * (2 * 3 + 0.25))
    assert resent(orders, sizes(3, 20)) == (3 * 2 * 20, 3 * 2 * 20)


def test_a_replay_takes_its_boundaries_bytes_where_lines_are_slow() -> None:
    """Each neighbour sends it two messages of 50 bytes an iteration: 10 s, above 6 s of work."""
    orders = [rebuild(TWO, 3, 2, steps=3)]
    found = replay_seconds(orders, fleet(Link(0.0, 10.0)), sizes(3, 50), pace(3))
    assert found == pytest.approx(3 * 10)
    shared = fleet(Link(0.0, 10.0), shared_uplink=True)
    assert replay_seconds(orders, shared, sizes(3, 50), pace(3)) == pytest.approx(3 * 10)


def test_a_neighbour_of_two_that_are_replayed_sends_both_over_one_uplink() -> None:
    orders = [rebuild(seat, 4, 2, steps=3) for seat in (ONE, THREE)]
    apart, shared = fleet(Link(0.0, 10.0)), fleet(Link(0.0, 10.0), shared_uplink=True)
    waiting = 3 * 6 / 2  # for the other's first microbatch, each time
    assert replay_seconds(orders, apart, sizes(4, 50), pace(4)) == pytest.approx(30 + waiting)
    assert replay_seconds(orders, shared, sizes(4, 50), pace(4)) == pytest.approx(60 + waiting)


def test_one_process_replays_one_after_the_other() -> None:
    orders = [rebuild(seat, 4, 2, steps=3) for seat in (ONE, THREE)]
    serial = fleet(Link(0.0, math.inf), serial=True)
    assert replay_seconds(orders, serial, sizes(4, 50), pace(4)) == pytest.approx(2 * 3 * 6)


# --- a run ---------------------------------------------------------------------------------------


def run(lag: int, lost: dict[int, tuple[Address, ...]], params: int = 400) -> Priced:
    """Twelve iterations of four stages, a wave every fourth. Two microbatches of 10 bytes take each
    line 2 s an iteration of 24, and a copy takes a line of its own 40 s."""
    seats = tuple(Address(stage) for stage in range(5))
    terms = Terms(
        iterations=12,
        microbatches=2,
        schedule=gpipe,
        clip=None,
        clip_over="stage",
        validation_every=0,
        validation_microbatches=1,
        validate_after_repair=False,
        resume_every=0,
        max_ticks=100,
        tokens=None,
        blind=True,
    )
    strategy = LogAndReplay(ReplayTerms(lag=lag, every=4))
    setting = RehearsalSetting(
        seats, strategy, terms, fleet(Link(0.0, 10.0)), sizes(4, 10, params), pace(4)
    )
    return rehearse(setting, TickStrikes(lost)).priced


def test_a_wave_is_waited_for_only_where_it_is_to_count_before_it_is_there() -> None:
    calm = run(3, {}, params=0)
    assert calm.seconds.get("redundant", 0.0) == 0.0
    assert run(3, {}).total == calm.total, "it has three iterations, and needs less than two"
    each = calm.total / 12
    # Ordered with the commit of iteration 3, it counts before iteration 5. Its line is one that
    # training leaves alone: of 40 s, an iteration's are left.
    hurried = run(1, {})
    assert hurried.seconds["redundant"] == pytest.approx(2 * (40 - each))
    assert hurried.total == pytest.approx(calm.total + hurried.seconds["redundant"])


def test_a_lost_stage_takes_its_copy_and_the_iterations_since() -> None:
    """Lost before tick 7, as the wave at 4 counts. The copy takes its line 40 s, three iterations
    of 6 s of work are computed."""
    calm, struck = run(3, {}), run(3, {7: (TWO,)})
    assert struck.seconds["replay"] == pytest.approx(40 + 3 * 6)
    assert struck.total == pytest.approx(calm.total + struck.seconds["replay"])
    assert struck.bytes["replay"] == 400 + 3 * 2 * (10 + 10)
    assert struck.recoveries == (pytest.approx(58),)
    assert not struck.seconds.get("rebuild") and not struck.seconds.get("rollback")


def test_what_a_lost_holder_had_is_sent_once_more() -> None:
    """Lost before tick 10, after the wave at 8 was ordered: stage 0's copies of 4 and of 8 go over
    one line again, 80 s, and that of 8 is to count an iteration later."""
    calm, struck = run(3, {}), run(3, {10: (TWO,)})
    assert struck.seconds["replay"] == pytest.approx(40 + 6 * 6)
    assert struck.seconds["redundant"] == pytest.approx(80 - calm.total / 12)


def test_a_wave_in_time_takes_memory_and_bytes_and_no_second() -> None:
    one, none = run(3, {}), run(3, {}, params=0)
    assert one.bytes["redundant"] == 2 * 5 * 400
    assert (one.bytes["useful"], one.total) == (none.bytes["useful"], none.total)
    assert one.stored["peers"] == 2 * 5 * 400, "the one that counts, and the next"
    logged = 2 * (5 * 10 + 5 * 10)  # bytes of an iteration: two microbatches, five boundaries
    assert one.stored["own"] == 2 * 5 * 400 + logged * (4 + 3)

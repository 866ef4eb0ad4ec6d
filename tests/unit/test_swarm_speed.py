"""Who makes everybody wait, and who doesn't, by what each has computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkfree.core.ops import Address
from checkfree.runtime.swarm.presence.pulses import seconds_of
from checkfree.runtime.swarm.presence.speed import (
    TIMES,
    WINDOW,
    WORTH,
    Direction,
    Life,
    SeatTiming,
    Speeds,
)

SEATS = tuple(Address(stage) for stage in range(5))


def told_at(speeds: Speeds, iteration: int, *seconds: Any) -> list[SeatTiming]:
    """An iteration of a second or more has ended."""
    return speeds.measured(iteration, float(iteration), *seconds)


def trained(
    speeds: Speeds, seconds: Mapping[Address, float], count: int, life: int = 0, first: int = 0
) -> list[tuple[int, SeatTiming]]:
    """So many iterations in which each seat computes for so long: when who was slow."""
    found = []
    for iteration in range(first, first + count):
        busy = {(seat, life): (iteration - first + 1) * s for seat, s in seconds.items()}
        found += [(iteration, told) for told in told_at(speeds, iteration, busy) if told.slow]
    return found


def test_a_body_stage_that_all_wait_for_is_slow_once_that_has_cost_enough() -> None:
    seconds = {**dict.fromkeys(SEATS, 1.0), SEATS[3]: 4.0}
    found = trained(Speeds(), seconds, 40)
    assert {slow.seat for _, slow in found} == {SEATS[3]}
    first, slow = found[0]
    assert (slow.seconds, slow.should, slow.waits) == (4.0, 1.0, 3.0)
    assert first * slow.waits > WORTH


def test_a_hiccup_is_not() -> None:
    speeds = Speeds()
    assert not trained(speeds, {**dict.fromkeys(SEATS, 0.1), SEATS[3]: 0.3}, WINDOW + 1)
    assert not trained(speeds, dict.fromkeys(SEATS, 0.1), 20, life=1, first=WINDOW + 1)


def test_stage_0_has_other_work_and_is_compared_with_itself() -> None:
    speeds = Speeds()
    seconds = {**dict.fromkeys(SEATS, 1.0), SEATS[0]: 9.0}
    assert not trained(speeds, seconds, 50)
    found = trained(speeds, {**seconds, SEATS[0]: 30.0}, 50, life=1, first=50)
    assert {slow.seat for _, slow in found} == {SEATS[0]}
    assert found[0][1].should == 9.0


def test_of_two_body_stages_the_slower_and_one_tells_nothing() -> None:
    seats = SEATS[:3]
    found = trained(Speeds(), {**dict.fromkeys(seats, 1.0), SEATS[2]: 9.0}, 50)
    assert {slow.seat for _, slow in found} == {SEATS[2]}
    assert not trained(Speeds(), {SEATS[0]: 1.0, SEATS[1]: 9.0}, 50)


def test_what_pulses_tell_now_and_then_is_not_measured_in_a_few_short_iterations() -> None:
    """Each takes 0.05 s, and half a second's worth of computing is told at a time."""
    speeds = Speeds()
    for iteration in range(400):
        told = {(seat, 0): 0.5 * (iteration // 10) * 0.4 for seat in SEATS}
        for measured in speeds.measured(iteration, iteration * 0.05, told):
            assert measured.seconds == pytest.approx(0.02, rel=0.12)
    assert speeds.seconds


def test_who_goes_back_is_counted_anew() -> None:
    speeds = Speeds()
    seconds = {**dict.fromkeys(SEATS, 1.0), SEATS[3]: 3.0}
    assert trained(speeds, seconds, 20)
    assert not trained(speeds, dict.fromkeys(SEATS, 1.0), 20)


@given(st.lists(st.floats(0.01, 10.0), min_size=5, max_size=5))
def test_nobody_is_slow_who_is_within_reach_of_the_median(times: list[float]) -> None:
    seconds = dict(zip(SEATS, times, strict=True))
    body = sorted(times[1:])
    middle = body[1]
    for _, slow in trained(Speeds(), seconds, 30):
        assert slow.seat.stage > 0
        assert slow.seconds >= TIMES * middle * (1 - 1e-9)
        assert slow.seconds == max(slow.seconds, *times) or abs(slow.seconds - max(times)) < 1e-6


def test_what_is_slow_is_what_all_others_wait_for() -> None:
    """Of two that are, the slower."""
    seconds = {**dict.fromkeys(SEATS, 1.0), SEATS[3]: 4.0, SEATS[4]: 5.0}
    assert {slow.seat for _, slow in trained(Speeds(), seconds, 60)} == {SEATS[4]}


# --- lines ---------------------------------------------------------------------------------------


def crossed(
    slow: Mapping[str, float], where: Mapping[Address, str], count: int = 40
) -> list[SeatTiming]:
    """Who is told after so many iterations in which everybody computes for 0.1 s, and what goes
    round from seat to seat, both ways, takes as long as the slower line of the two nodes."""
    speeds, found = Speeds(), list[SeatTiming]()
    for iteration in range(count):
        busy: dict[Life, float] = {(seat, 0): (iteration + 1) * 0.1 for seat in where}
        ways: dict[Direction, float] = {}
        for seat in where:
            for other in (Address((seat.stage + step) % len(where)) for step in (1, -1)):
                if where[seat] != where[other]:
                    takes = max(slow.get(where[seat], 0.01), slow.get(where[other], 0.01))
                    ways[(seat, 0), other] = (iteration + 1) * takes
        found += [told for told in told_at(speeds, iteration, busy, ways, where) if told.slow]
    return found


def test_a_narrow_line_is_slow_and_its_neighbours_are_not() -> None:
    where = dict(zip(SEATS, "abcde", strict=True))
    found = crossed({"c": 2.0}, where)
    assert {told.seat for told in found} == {SEATS[2]}
    assert found[0].line
    assert found[0].waits == pytest.approx(1.9)
    assert "its line (2 s, others 0.1 s)" in str(found[0])


def test_seats_of_a_node_share_its_line() -> None:
    where = dict(zip(SEATS, "abbcd", strict=True))
    assert {told.seat for told in crossed({"b": 2.0}, where)} == {SEATS[1]}
    assert not crossed({}, where)


def test_of_two_nodes_nobody_knows_whose_line_it_is() -> None:
    assert not crossed({"b": 2.0}, dict(zip(SEATS, "aabbb", strict=True)))


def test_a_line_that_hides_behind_what_others_compute_is_none() -> None:
    where = dict(zip(SEATS, "abcde", strict=True))
    assert not crossed({"c": 0.19}, where, 200)


def test_who_computes_slowly_and_so_answers_late_is_told_for_what_it_computes() -> None:
    speeds, where = Speeds(), dict(zip(SEATS, "abcde", strict=True))
    found = list[SeatTiming]()
    for iteration in range(40):
        busy = {(seat, 0): (iteration + 1) * (3.0 if seat == SEATS[3] else 0.2) for seat in SEATS}
        late = {((seat, 0), SEATS[3]): (iteration + 1) * 2.9 for seat in (SEATS[2], SEATS[4])}
        found += [told for told in told_at(speeds, iteration, busy, late, where) if told.slow]
    assert {(told.seat, told.line) for told in found if not told.line} == {(SEATS[3], False)}
    assert {told.seat for told in found} == {SEATS[3]}


def test_who_tells_rubbish_has_told_nothing() -> None:
    """As any member may, who can send any JSON."""
    pulse = {"busy": float("nan"), "lines": {"1.0": float("inf"), "2.0": -1.0, "3.0": 0.5, "x": 1}}
    assert seconds_of(pulse, SEATS) == (None, {SEATS[3]: 0.5}, {})
    assert seconds_of({"busy": 2.0, "lines": []}, SEATS) == (2.0, {}, {})
    assert seconds_of({"ways": {"1.0": 0.25, "2.0": "x"}}, SEATS) == (None, {}, {SEATS[1]: 0.25})
    assert seconds_of({}, SEATS) == (None, {}, {})

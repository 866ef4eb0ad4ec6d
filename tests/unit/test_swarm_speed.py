"""Who makes everybody wait, and who doesn't, by what each has computed."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from checkfree.ops import Address
from checkfree.runtime.swarm.presence.speed import TIMES, WINDOW, WORTH, Slow, Speeds

SEATS = tuple(Address(stage) for stage in range(5))


def trained(
    speeds: Speeds, seconds: Mapping[Address, float], count: int, life: int = 0, first: int = 0
) -> list[tuple[int, Slow]]:
    """So many iterations in which each seat computes for so long: when who was slow."""
    found = []
    for iteration in range(first, first + count):
        busy = {(seat, life): (iteration - first + 1) * s for seat, s in seconds.items()}
        found += [(iteration, slow) for slow in speeds.measured(iteration, busy)]
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


def test_two_body_stages_tell_nothing_of_each_other() -> None:
    seats = SEATS[:3]
    assert not trained(Speeds(), {**dict.fromkeys(seats, 1.0), SEATS[2]: 9.0}, 50)


def test_who_goes_back_is_counted_anew() -> None:
    speeds = Speeds()
    seconds = {**dict.fromkeys(SEATS, 1.0), SEATS[3]: 3.0}
    assert trained(speeds, seconds, 20)
    assert not trained(speeds, dict.fromkeys(SEATS, 1.0), 20)


@given(st.lists(st.floats(0.01, 10.0), min_size=5, max_size=5))
def test_nobody_is_slow_who_is_within_reach_of_the_median(times: list[float]) -> None:
    seconds = dict(zip(SEATS, times, strict=True))
    body = sorted(times[1:])
    middle = (body[1] + body[2]) / 2
    for _, slow in trained(Speeds(), seconds, 30):
        assert slow.seat.stage > 0
        assert slow.seconds >= TIMES * middle * (1 - 1e-9)
        assert slow.seconds == max(slow.seconds, *times) or abs(slow.seconds - max(times)) < 1e-6


def test_what_is_slow_is_what_all_others_wait_for() -> None:
    """Of two that are, the slower."""
    seconds = {**dict.fromkeys(SEATS, 1.0), SEATS[3]: 4.0, SEATS[4]: 5.0}
    assert {slow.seat for _, slow in trained(Speeds(), seconds, 60)} == {SEATS[4]}

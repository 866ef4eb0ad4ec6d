"""What an iteration takes on a fleet, against figures worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkfree.core.ops import Address, Mirror, Op, Route
from checkfree.pipeline import (
    gpipe,
    key,
    makespan,
    one_f_one_b,
    split_backwards,
    zb_h1,
    zb_h2,
)
from checkfree.pipeline.routes import in_order
from checkfree.pipeline.stash import SLACK
from checkfree.simulator.fleet import Fleet, Link
from checkfree.simulator.iteration import NetworkLines, price_iteration
from checkfree.simulator.sizes import ComputePace, Sizes, StagePart

BODY = StagePart(forward=1.0, backward=2.0, shadow=1.0)
NOTHING = StagePart(0.0, 0.0, 0.0)


def fleet(link: Link, **changes: object) -> Fleet:
    plain = Fleet("test", lambda one, other: link, 1, 1.0, 0.0, 0.0, 1.0)
    return Fleet(**{**vars(plain), **changes})  # type: ignore[arg-type]


def sizes(stages: int, activation: int = 0, params: int = 0) -> Sizes:
    none, same = (0,) * (stages + 1), (params,) * (stages + 1)
    return Sizes("test", activation, activation, same, none, none, 0.0, (0.0,) * stages, 0.0)


def pace(stages: int, step: float = 0.0, overhead: float = 0.0) -> ComputePace:
    return ComputePace(NOTHING, (BODY,) * stages, NOTHING, (step,) * (stages + 1), overhead)


def routes(stages: int, microbatches: int, replicas: int = 1) -> tuple[Route, ...]:
    seats = [Address(s, r) for s in range(stages + 1) for r in range(replicas)]
    return in_order(seats, microbatches)


FAST = Link(0.0, math.inf)


def test_one_microbatch_takes_its_way_out_and_home() -> None:
    found = routes(3, 1)
    price = price_iteration(found, gpipe(found), (), (), fleet(FAST), sizes(3), pace(3))
    assert price.total == 3 * (1 + 2)
    assert price.seconds["useful"] == pytest.approx(9 / 4)
    assert price.seconds["bubble"] == pytest.approx(9 - 9 / 4)
    assert not price.seconds.get("transfer")


def test_bytes_take_their_time_and_queue_for_the_line() -> None:
    found = routes(1, 2)
    link = Link(latency=0.5, bandwidth=10.0)
    price = price_iteration(found, gpipe(found), (), (), fleet(link), sizes(1, 20), pace(1))
    # Begin arrives at .5, then stage 0 sends: 2 s of line each, so activations arrive at 3 and 5.
    # Forwards end at 4 and 6, are home at 6.5 and 8.5. Gradients leave then, one after the other,
    # arrive at 11 and 13; backwards end at 13 and 15, the last is home at 17.5. Prepared, Commit
    # and Stepped take a latency each.
    assert price.total == pytest.approx(17.5 + 3 * 0.5)
    assert price.bytes == {"Activation": 2 * 2 * 20, "Gradient": 2 * 2 * 20}


def test_a_shared_uplink_makes_all_sends_of_a_node_queue() -> None:
    apart, shared = fleet(Link(0.0, 10.0)), fleet(Link(0.0, 10.0), shared_uplink=True)
    one, two, three = Address(1), Address(2), Address(3)
    for used, last in ((apart, 2.0), (shared, 4.0)):
        lines = NetworkLines(used)
        lines.send(0.0, one, two, 20)
        assert lines.send(0.0, one, three, 20) == last
    assert NetworkLines(shared).send(3.0, one, one, 20) == 3.0, "what stays at home takes no line"


def test_replicas_send_each_other_their_gradients() -> None:
    found = routes(1, 2, replicas=2)
    price = price_iteration(
        found, gpipe(found), (), (), fleet(Link(0.0, 10.0)), sizes(1, 0, 50), pace(1)
    )
    assert price.bytes["Share"] == 2 * 2 * 50
    assert price.total == pytest.approx(3 + 5)


def test_exact_copies_cost_their_gradients_and_their_steps() -> None:
    found = routes(1, 1)
    keep = Mirror(Address(1), Address(0))
    link = Link(0.0, 10.0)
    plain, kept = (
        price_iteration(found, gpipe(found), keeps, (), fleet(link), sizes(1, 0, 50), pace(1, 0.25))
        for keeps in ((), (keep,))
    )
    assert kept.bytes == {**plain.bytes, "KeepGradient": 50}
    assert kept.total == pytest.approx(plain.total + 5 + 0.25)
    assert kept.seconds["redundant"] == pytest.approx((5 + 0.25) / 2)


def test_one_thread_overlaps_nothing() -> None:
    found = routes(3, 4)
    serial = fleet(FAST, serial=True)
    price = price_iteration(found, one_f_one_b(found), (), (), serial, sizes(3), pace(3, 0.5, 0.1))
    assert price.total == pytest.approx(3 * 4 * (1 + 2) + 4 * 0.5 + 0.1)
    assert price.seconds == {"useful": pytest.approx(price.total)}


@pytest.mark.parametrize("serial", [False, True])
def test_what_is_recomputed_takes_its_forwards_once_more(serial: bool) -> None:
    found = routes(3, 8)
    with_each = []
    for again in (frozenset[int](), frozenset({2}), frozenset({1, 2, 3})):
        how = replace(pace(3), again=again)
        price = price_iteration(
            found, zb_h1(found), (), (), fleet(FAST, serial=serial), sizes(3), how
        )
        with_each.append(price.seconds["useful"] * (1 if serial else 4))
    assert with_each == pytest.approx([3 * 8 * 3, 3 * 8 * 3 + 8, 3 * 8 * 4])


@pytest.mark.parametrize("serial", [False, True])
def test_what_is_offloaded_is_waited_for_where_it_must_be(serial: bool) -> None:
    """As much is moved as the line carries meanwhile, so nobody waits for long; with little room
    everything, and a slow line takes its time. What is the last stage's is not worth it."""
    found, weigh = routes(3, 12), replace(sizes(3), stashed=(0, 10, 10, 10))

    def seconds(bandwidth: float, room: int | None, stages: frozenset[int]) -> float:
        how = replace(pace(3), offload=stages, room=room)
        on = fleet(FAST, serial=serial, offload=bandwidth)
        return price_iteration(found, one_f_one_b(found), (), (), on, weigh, how).total

    body = frozenset({1, 2, 3})
    plain = seconds(10.0, None, frozenset())
    assert seconds(math.inf, 0, body) == plain
    assert seconds(1e-3, None, body) == plain, "too slow for any"
    assert plain <= seconds(20.0, None, body) <= (1 + 3 * SLACK) * plain
    assert seconds(1.0, 0, body) > 2 * plain
    assert seconds(1e-3, 0, frozenset({3})) == plain


@pytest.mark.parametrize("make", [one_f_one_b, zb_h1, zb_h2])
@pytest.mark.parametrize("serial", [False, True])
def test_both_halves_of_a_backward_are_as_long_as_the_whole(make: Any, serial: bool) -> None:
    """Where nothing else was measured; and useful work, both."""
    found = routes(3, 8)
    price = price_iteration(
        found, make(found), (), (), fleet(FAST, serial=serial), sizes(3), pace(3)
    )
    assert price.seconds["useful"] * (1 if serial else 4) == pytest.approx(3 * 8 * (1 + 2))


def test_halves_are_as_long_as_they_were_measured() -> None:
    found = routes(1, 1)
    body = StagePart(1.0, 2.0, 1.0, halves=(1.5, 0.75))
    speed = ComputePace(NOTHING, (body,), NOTHING, (0.0, 0.0))
    whole, split = (
        price_iteration(found, make(found), (), (), fleet(FAST), sizes(1), speed)
        for make in (one_f_one_b, zb_h1)
    )
    assert (whole.total, split.total) == (3.0, 3.25)
    assert body.scaled(2.0).split == (3.0, 1.5)


def test_gradients_of_weights_fill_the_bubble() -> None:
    found = routes(4, 8)
    plain, split = (
        price_iteration(found, make(found), (), (), fleet(FAST), sizes(4), pace(4))
        for make in (one_f_one_b, zb_h1)
    )
    assert (plain.total, split.total) == (33.0, 27.0)
    assert split.bytes == plain.bytes


@given(
    stages=st.integers(1, 5),
    microbatches=st.integers(1, 8),
    latency=st.floats(0, 2),
    activation=st.integers(0, 50),
)
def test_classes_add_up_to_the_whole(
    stages: int, microbatches: int, latency: float, activation: int
) -> None:
    found = routes(stages, microbatches)
    schedule = one_f_one_b(found)
    used = fleet(Link(latency, 10.0))
    price = price_iteration(found, schedule, (), (), used, sizes(stages, activation), pace(stages))
    assert sum(price.seconds.values()) == pytest.approx(price.total)
    assert price.seconds["useful"] == pytest.approx(3 * microbatches * stages / (stages + 1))
    assert all(spent >= 0 for spent in price.seconds.values())


@given(st.integers(1, 5), st.integers(1, 8), st.sampled_from([gpipe, one_f_one_b, zb_h1, zb_h2]))
def test_without_bytes_it_is_the_schedules_own_length(
    stages: int, microbatches: int, make: Any
) -> None:
    found = routes(stages, microbatches)
    schedule, speed = make(found), pace(stages)
    split = split_backwards(schedule)

    def seconds(worker: Address, op: Op) -> float:
        return speed.seconds(op, found[op.microbatch], key(op) in split)

    price = price_iteration(found, schedule, (), (), fleet(FAST), sizes(stages), speed)
    length = makespan(
        schedule,
        found,
        lambda worker, op: 0.0 if op.microbatch < 0 else seconds(worker, op),
        lambda one, other: 0.0,
    )
    assert price.total == pytest.approx(length)

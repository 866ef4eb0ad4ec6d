"""A fleet from what a swarm has measured, and other ways for its microbatches."""

from __future__ import annotations

import itertools

import pytest

from checkfree.config.load import build
from checkfree.core.ops import Address
from checkfree.pipeline.routes import in_order
from checkfree.recovery.wrappers import make_strategy
from checkfree.session.sizes import own_sizes
from checkfree.session.swarm.measured_routes import TURNS, MeasuredRoutes
from checkfree.session.terms import terms_of
from checkfree.simulator.fleet import Fleet
from checkfree.simulator.measured import (
    MeasuredFleet,
    fleet_measured,
    pace_measured,
    rates_measured,
)

CONFIG = build(
    {
        "stages": 2,
        "replicas": 2,
        "microbatches": 4,
        "routes": "flow",
        "model": {"width": 8, "heads": 2, "blocks": 2, "context": 8},
        "recovery": {"name": "none"},
        "failures": {"scenario": "none"},
    }
)
SEATS = [Address(stage, replica) for stage in range(3) for replica in range(2)]
PLAIN = in_order(SEATS, 4)
SLOW = Address(1, 0), Address(2, 0)
SIZES = own_sizes(CONFIG)


def lines(slow: float = 0.4, fast: float = 0.02) -> dict[tuple[Address, Address], float]:
    """Of all ways that routes in order take, both ways."""
    ways = {way for route in PLAIN for way in itertools.pairwise(route)}
    both = {*ways, *((b, a) for a, b in ways)}
    return {way: slow if way in (SLOW, SLOW[::-1]) else fast for way in both}


def measured(**changes: object) -> MeasuredFleet:
    found = {"computes": dict.fromkeys(SEATS, 0.02), "lines": lines(), "nodes": {}, **changes}
    return MeasuredFleet(**found)  # type: ignore[arg-type]


def fleet_of(found: MeasuredFleet) -> Fleet:
    return fleet_measured(rates_measured(found, PLAIN, SIZES), found.nodes, SEATS)


def test_what_was_measured_is_what_a_line_carries() -> None:
    fleet = fleet_of(measured())
    # Two of the four microbatches crossed it.
    assert fleet.link(*SLOW).seconds(SIZES.activation) == pytest.approx(0.4 / 2)
    assert fleet.link(Address(0), Address(1)).seconds(SIZES.activation) == pytest.approx(0.02 / 2)


def test_a_line_that_nobody_used_is_as_good_as_the_worse_end_has_shown() -> None:
    fleet = fleet_of(measured())
    unused = fleet.link(Address(1, 0), Address(2, 1))
    assert unused.seconds(SIZES.activation) == pytest.approx(0.02 / 2)
    same_nodes = {Address(1, 0): "a", Address(2, 0): "b", Address(2, 1): "b"}
    fleet = fleet_of(measured(nodes=same_nodes))
    assert fleet.link(Address(1, 0), Address(2, 1)) == fleet.link(*SLOW)


def test_a_seat_that_takes_longer_for_the_same_is_slower() -> None:
    computes = {**dict.fromkeys(SEATS, 0.02), Address(1, 1): 0.06}
    pace = pace_measured(measured(computes=computes), PLAIN, SEATS, SIZES)
    assert pace.both_ways(Address(1, 1)) == pytest.approx(3 * pace.both_ways(Address(1, 0)))
    assert pace.both_ways(Address(2, 0)) == pytest.approx(0.02 / 2)
    assert pace.both_ways(Address(0)) == pytest.approx(0.02 / 2)


def routing() -> MeasuredRoutes:
    return MeasuredRoutes(CONFIG, make_strategy(CONFIG.recovery), terms_of(CONFIG, 1))


def test_microbatches_go_round_a_slow_line_once_it_is_measured() -> None:
    asked, some = routing(), lines()
    some.pop(SLOW)
    assert asked.better(SEATS, PLAIN, measured(lines=some)) is None
    found = asked.better(SEATS, PLAIN, measured())
    assert found is not None
    assert not [route for route in found.routes if route[1:3] == SLOW]
    assert asked.better(SEATS, found.routes, measured()) is None, "nothing new is known"


def test_a_line_that_is_avoided_stays_slow() -> None:
    """Nothing is on its way there any more, so that there is nothing new to measure it by."""
    asked = routing()
    assert asked.better(SEATS, PLAIN, measured()) is not None
    first, other = Address(1, 0), Address(2, 1)
    crowded = tuple((route[0], first, other, route[0]) for route in PLAIN)
    ways = {way for route in crowded for way in itertools.pairwise(route)}
    used = {way: 0.02 for one, to in ways for way in ((one, to), (to, one))}
    slow = dict.fromkeys((*SEATS[:2], first, other), 0.4)  # whoever else sits has nothing to do
    found = asked.better(SEATS, crowded, measured(lines={**lines(0.0, 0.0), **used}, computes=slow))
    assert found is not None
    assert not [route for route in found.routes if route[1:3] == SLOW]


def test_what_is_about_as_good_is_left_alone() -> None:
    assert routing().better(SEATS, PLAIN, measured(lines=lines(slow=0.021))) is None


def test_members_that_change_are_looked_at_again_and_others_a_few_times() -> None:
    asked, told = routing(), 0
    every = lines()
    for count in range(10):  # each time something new is known
        every[Address(0), Address(2, count + 2)] = 1.0
        told += asked.better(SEATS, PLAIN, measured(lines=dict(every))) is not None
    assert told == TURNS
    fewer = [seat for seat in SEATS if seat != Address(2, 1)]
    assert asked.better(fewer, in_order(fewer, 4), measured(lines=_all(fewer))) is None
    assert asked.better(SEATS, PLAIN, measured(lines=dict(every))) is not None


def _all(seats: list[Address]) -> dict[tuple[Address, Address], float]:
    """As fast as each other."""
    return {(a, b): 0.02 for a in seats for b in seats if a != b}

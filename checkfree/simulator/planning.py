"""Where seats stand on a fleet, and what its lines and seats are asked for: both by what the
simulator takes an iteration to last."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from itertools import combinations

from checkfree.core.ops import Address
from checkfree.pipeline.flow import Hop, RouteTraffic
from checkfree.pipeline.routes import by_stage
from checkfree.simulator.fleet import Fleet
from checkfree.simulator.sizes import ComputePace, Sizes

MOST_PLACEMENTS = 2_000
"""Tried by a search; some seconds for the paper's 28 nodes, which needs half of them."""

Standing = Mapping[Address, int]
"""The place of each seat."""


def traffic_of(
    seats: Collection[Address], fleet: Fleet, sizes: Sizes, pace: ComputePace
) -> RouteTraffic:
    """What one microbatch asks of a fleet's seats and lines."""
    stages = by_stage(seats)
    following = [*stages[1:], stages[0]]
    hops = {
        (one, other): _hop(one, other, fleet, sizes)
        for here, there in zip(stages, following, strict=True)
        for one in here
        for other in there
    }
    return RouteTraffic({seat: pace.both_ways(seat) for seat in seats}, hops)


def _hop(one: Address, other: Address, fleet: Fleet, sizes: Sizes) -> Hop:
    there, back = fleet.link(one, other), fleet.link(other, one)
    out = there.seconds(sizes.activation_on(one, other))
    home = back.seconds(sizes.gradient_on(other, one))
    lines = ((fleet.line(one, other), out), (fleet.line(other, one), home))
    return Hop(lines, out + home + there.latency + back.latency)


def placed(fleet: Fleet, seats: Collection[Address], seconds: Callable[[Fleet], float]) -> Fleet:
    """The fleet with its machines given to ``seats`` so that an iteration takes as few ``seconds``
    as were found to do: from where they stand, and from the replicas of each stage side by side, by
    exchanges of two seats or of two stages. No machine comes or goes."""
    spread = {seat: fleet.place(seat) for seat in sorted(seats)}
    beside = dict(zip(spread, sorted(spread.values()), strict=True))
    found = [_climbed(standing, fleet, seconds) for standing in (spread, beside)]
    return min(found, key=lambda each: each[0])[1]


def _climbed(
    standing: Standing, fleet: Fleet, seconds: Callable[[Fleet], float]
) -> tuple[float, Fleet]:
    """By one exchange after the other that makes it better."""
    best = replace(fleet, standing=standing)
    takes, left, better = seconds(best), MOST_PLACEMENTS // 2, True
    while better:
        better = False
        for exchanged in _exchanges(sorted(standing)):
            now = best.standing
            changed = {seat: now[exchanged.get(seat, seat)] for seat in now}
            if left <= 0 or changed == now:
                continue
            left -= 1
            option = replace(fleet, standing=changed)
            if (with_it := seconds(option)) < takes:
                best, takes, better = option, with_it, True
    return takes, best


def _exchanges(seats: Collection[Address]) -> Iterator[Mapping[Address, Address]]:
    """Who takes whose place: stages that have equally many seats, and single seats."""
    for one, other in combinations(by_stage(seats), 2):
        if len(one) == len(other):
            yield dict(zip((*one, *other), (*other, *one), strict=True))
    for a, b in combinations(seats, 2):
        yield {a: b, b: a}

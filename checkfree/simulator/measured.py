"""A fleet as it was measured while it trained: what each seat computes, and what each line carries.

From a few iterations, of which the routes are known: seconds of a seat are shared by its
microbatches, seconds of a line by the bytes that crossed it. What nobody has used yet is guessed
from what the two ends have shown elsewhere.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from checkfree.core.ops import Address, Route
from checkfree.simulator.fleet import Fleet, Link
from checkfree.simulator.sizes import FORWARD_SHARE, ComputePace, Sizes, StagePart

EDGE_SHARES = 0.1, 0.9
"""Of stage 0's seconds, taken as those of its embedding and of its head and loss."""


@dataclass(frozen=True)
class MeasuredFleet:
    """Seconds per iteration: for which each seat ``computes``, and for which something is on its
    way from one seat to another (``lines``). ``nodes``: who has which seat; nobody may be known."""

    computes: Mapping[Address, float]
    lines: Mapping[tuple[Address, Address], float]
    nodes: Mapping[Address, str]

    def covers(self, routes: Sequence[Route]) -> bool:
        """All seats and lines of these routes are measured."""
        ways = {way for route in routes for way in pairwise(route) if way[0] != way[1]}
        both = {*ways, *((other, one) for one, other in ways)}
        seats = {seat for route in routes for seat in route}
        return seats <= self.computes.keys() and both <= self.lines.keys()


Rates = Mapping[tuple[Address, Address], float]
"""Bytes per second, from one seat to another."""


def fleet_measured(rates: Rates, nodes: Mapping[Address, str], seats: Collection[Address]) -> Fleet:
    """Lines as fast as they were when microbatches took them, latencies among it."""
    order = sorted(seats)
    table = {
        (a, b): Link(0.0, _bandwidth(order[a], order[b], rates, nodes))
        for a in range(len(order))
        for b in range(len(order))
    }
    return Fleet(
        "measured",
        lambda one, other: table[one, other],
        places=len(order),
        flops=1.0,
        detection=0.0,
        replacement=0.0,
        store=1.0,
        standing={seat: place for place, seat in enumerate(order)},
    )


def rates_measured(found: MeasuredFleet, routes: Sequence[Route], sizes: Sizes) -> Rates:
    """Of the lines that microbatches crossed on these ``routes``."""
    crossed: Counter[tuple[Address, Address]] = Counter()
    for route in routes:
        for one, other in pairwise(route):
            crossed[one, other] += sizes.activation_on(one, other)
            crossed[other, one] += sizes.gradient_on(other, one)
    return {
        way: crossed[way] / seconds
        for way, seconds in found.lines.items()
        if seconds > 0 and crossed[way]
    }


def _bandwidth(one: Address, other: Address, rates: Rates, nodes: Mapping[Address, str]) -> float:
    """Measured; or between the same two nodes; or no more than the best that either end has shown,
    or else what is usual."""
    if (one, other) in rates:
        return rates[one, other]
    if not rates:
        return float("inf")
    ends = nodes.get(one, str(one)), nodes.get(other, str(other))
    alike = [
        rate
        for (a, b), rate in rates.items()
        if (nodes.get(a, str(a)), nodes.get(b, str(b))) == ends
    ]
    if alike:
        return median(alike)
    out = [rate for (a, _), rate in rates.items() if nodes.get(a, str(a)) == ends[0]]
    into = [rate for (_, b), rate in rates.items() if nodes.get(b, str(b)) == ends[1]]
    known = [max(some) for some in (out, into) if some]
    return min(known) if known else median(rates.values())


def pace_measured(
    found: MeasuredFleet, routes: Sequence[Route], seats: Collection[Address], sizes: Sizes
) -> ComputePace:
    """Seconds of a microbatch at each seat: by stage what is usual there, and by seat how many
    times as long it takes."""
    stages = len(sizes.bodies)
    crossed = Counter(seat for route in routes for seat in set(route))
    each = {
        seat: seconds / crossed[seat] for seat, seconds in found.computes.items() if crossed[seat]
    }
    by: defaultdict[int, list[float]] = defaultdict(list)
    for seat, seconds in each.items():
        by[seat.stage].append(seconds)
    usual = {stage: median(some) for stage, some in by.items()}
    body = median([usual[s] for s in usual if s > 0] or [0.0])
    edge = usual.get(0, 0.0)
    embed, head = (_part(edge * share) for share in EDGE_SHARES)
    bodies = tuple(_part(usual.get(stage, body) / sizes.visits) for stage in range(1, stages + 1))
    steps = (0.0,) * (stages + 1)  # every seat steps as often, whatever the routes
    pace = ComputePace(embed, bodies, head, steps, visits=sizes.visits)
    slower = {
        seat: each[seat] / usual[seat.stage]
        for seat in seats
        if seat in each and usual[seat.stage] > 0
    }
    return replace(pace, slower=slower)


def _part(both_ways: float) -> StagePart:
    forward = both_ways * FORWARD_SHARE
    return StagePart(forward, both_ways - forward, forward)

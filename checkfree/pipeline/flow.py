"""Routes through replicas by what links and seats can carry.

    nearest   at each stage the replica that is reached the soonest, and none more than its share
    flow      the slowest link and the busiest seat carry the least

Both are functions of their arguments alone. ``flow`` sends one microbatch after the other the way
that adds the least to a sum of powers of what lines and seats have to do (a congestion game, in
which going over to a better way ends), at several powers, and searches on from the best by what an
iteration takes. Weighted routing of SWARM (arXiv 2301.11913), flows of "Go With The Flow" (arXiv
2509.21221) and paths of SkipPipe (arXiv 2502.19913) are after the same; here no microbatch skips a
stage, so that what is trained is the same but for which replica sums what.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from checkfree.core.ops import Address, Route
from checkfree.pipeline.routes import by_stage, in_order

ROUTES = IN_ORDER, NEAREST, FLOW = ("in_order", "nearest", "flow")
"""How routes may be made."""

Resource = tuple[Address, ...]
"""What queues form for: a seat, or a line from one seat to another."""

Ways = Sequence[tuple[float, Route]]
"""Routes as far as they have come, with what each adds to the load."""

POWERS = (1, 2, 4)
"""Of what each resource has to do: 1 is the shortest way for all, more are ever fairer."""

ROUNDS = 8
"""Of going over to better ways, at most."""

MOST_HOPS = 100_000
"""Of routes that a search tries, all together: about a second."""


@dataclass(frozen=True)
class Hop:
    """From one seat to another and, with the gradient, back again: seconds that each line carries
    something, and seconds that it takes, latency included."""

    lines: tuple[tuple[Resource, float], ...]
    seconds: float


@dataclass(frozen=True)
class RouteTraffic:
    """What one microbatch asks of a network. ``work``: seconds of its forward and backward at each
    seat; ``hops``: between seats of stages that follow each other, the first after the last."""

    work: Mapping[Address, float]
    hops: Mapping[tuple[Address, Address], Hop]


def nearest(
    seats: Collection[Address], num_microbatches: int, traffic: RouteTraffic
) -> tuple[Route, ...]:
    """One route per microbatch, hop by hop to the nearest replica that has had less than its equal
    share so far; microbatch m begins at the same seat of stage 0 as ``in_order`` has it. Raises
    ValueError if a stage below the last has no seat."""
    first, *body = by_stage(seats)
    taken: Counter[Address] = Counter()
    routes = []
    for microbatch in range(num_microbatches):
        route = [first[microbatch % len(first)]]
        for replicas in body:
            share = -(-num_microbatches // len(replicas))
            open_to = [seat for seat in replicas if taken[seat] < share]
            near = min(open_to, key=lambda seat: (traffic.hops[route[-1], seat].seconds, seat))
            taken[near] += 1
            route.append(near)
        routes.append((*route, route[0]))
    return tuple(routes)


def by_flow(
    seats: Collection[Address],
    num_microbatches: int,
    traffic: RouteTraffic,
    seconds: Callable[[tuple[Route, ...]], float],
    most_hops: int = MOST_HOPS,
) -> tuple[Route, ...]:
    """One route per microbatch, so that an iteration takes as few ``seconds`` as were found to do.
    A replica may have none. ``most_hops``: of all routes together that are tried. Raises ValueError
    if a stage below the last has no seat."""
    stages = by_stage(seats)
    plain = in_order(seats, num_microbatches)
    if all(len(replicas) == 1 for replicas in stages):
        return plain
    tried = [plain, nearest(seats, num_microbatches, traffic)]
    tried += [_balanced(stages, num_microbatches, traffic, power) for power in POWERS]
    best = min(((seconds(routes), n) for n, routes in enumerate(tried)), default=(0.0, 0))
    hops = sum(map(len, plain))
    return _searched(stages, tried[best[1]], best[0], seconds, most_hops // hops - len(tried))


def _balanced(
    stages: Sequence[Sequence[Address]], num_microbatches: int, traffic: RouteTraffic, power: int
) -> tuple[Route, ...]:
    """Each on the way that adds least to the sum of all loads to that power, given the others'."""
    load: defaultdict[Resource, float] = defaultdict(float)

    def added(parts: Sequence[tuple[Resource, float]]) -> float:
        return sum((load[what] + more) ** power - load[what] ** power for what, more in parts)

    def put(route: Route, sign: int) -> None:
        for part, more in _asked(route, traffic):
            load[part] += sign * more

    def reached(seat: Address, ways: Ways) -> tuple[float, Route]:
        options = ((cost + added(traffic.hops[w[-1], seat].lines), w) for cost, w in ways)
        cost, way = min(options)
        return cost, (*way, seat)

    def at_work(found: tuple[float, Route]) -> tuple[float, Route]:
        cost, way = found
        return cost + added([((way[-1],), traffic.work[way[-1]])]), way

    def best() -> Route:
        ends = []
        for first in stages[0]:
            ways = [at_work((0.0, (first,)))]
            for replicas in stages[1:]:
                ways = [at_work(reached(seat, ways)) for seat in replicas]
            ends.append(reached(first, ways))
        return min(ends)[1]

    routes: list[Route] = []
    for _ in range(num_microbatches):
        routes.append(best())
        put(routes[-1], 1)
    for _ in range(ROUNDS):
        before = list(routes)
        for microbatch, route in enumerate(before):
            put(route, -1)
            routes[microbatch] = best()
            put(routes[microbatch], 1)
        if routes == before:
            break
    return tuple(routes)


def _asked(route: Route, traffic: RouteTraffic) -> Iterator[tuple[Resource, float]]:
    """What a microbatch on that route adds to the load of seats and lines."""
    for seat, following in pairwise(route):
        yield (seat,), traffic.work[seat]
        yield from traffic.hops[seat, following].lines


def _searched(
    stages: Sequence[Sequence[Address]],
    routes: tuple[Route, ...],
    best: float,
    seconds: Callable[[tuple[Route, ...]], float],
    left: int,
) -> tuple[Route, ...]:
    """Better ones, by one change after the other, as many as are ``left`` to be tried."""
    better = True
    while better:
        better = False
        for microbatch, stage, seat in _changes(stages, routes):
            if left <= 0:
                return routes
            changed = _changed(routes, microbatch, stage, seat)
            if changed == routes:
                continue
            left -= 1
            takes = seconds(changed)
            if takes < best:
                routes, best, better = changed, takes, True
    return routes


def _changes(
    stages: Sequence[Sequence[Address]], routes: Sequence[Route]
) -> Iterator[tuple[int, int, Address]]:
    """A microbatch over another replica of a stage."""
    for microbatch in range(len(routes)):
        for stage, replicas in enumerate(stages):
            for seat in replicas:
                yield microbatch, stage, seat


def _changed(
    routes: tuple[Route, ...], microbatch: int, stage: int, seat: Address
) -> tuple[Route, ...]:
    route = [seat if other.stage == stage else other for other in routes[microbatch]]
    return (*routes[:microbatch], tuple(route), *routes[microbatch + 1 :])

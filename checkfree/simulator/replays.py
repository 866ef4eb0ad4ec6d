"""What log and replay take: bytes that seats keep and send again, and seconds of the replays."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

from checkfree.core.links import Way
from checkfree.core.ops import Address, Kind, Op, Route, Schedule
from checkfree.messages.control import Again, Rebuild
from checkfree.pipeline import key, split_backwards
from checkfree.simulator.fleet import Fleet, Line
from checkfree.simulator.sizes import ComputePace, Sizes

Orders = Sequence[tuple[Address, Rebuild]]


def logged(schedule: Schedule, routes: Sequence[Route], sizes: Sizes) -> Mapping[Address, int]:
    """Bytes that each seat sends to others in an iteration, and adds to its log."""
    found: Counter[Address] = Counter(dict.fromkeys(schedule, 0))
    for one, other in (hop for route in routes for hop in pairwise(route)):
        found[one] += sizes.activation_on(one, other)
        found[other] += sizes.gradient_on(other, one)
    return found


def resent(orders: Orders, sizes: Sizes) -> tuple[int, int]:
    """Bytes of activations and of gradients that all who are replayed get."""
    ways = [
        (way, counts)
        for seat, order in orders
        for step in _steps(order)
        for way, counts in _received(_again(order), step, seat).items()
    ]
    forwards = sum(there * sizes.activation_on(*way) for way, (there, _) in ways)
    backwards = sum(back * sizes.gradient_on(*way) for way, (_, back) in ways)
    return forwards, backwards


def received(seat: Address, order: Rebuild, sizes: Sizes) -> int:
    """Bytes that one of them gets."""
    return sum(resent([(seat, order)], sizes))


def replay_seconds(orders: Orders, fleet: Fleet, sizes: Sizes, pace: ComputePace) -> float:
    """Until all are there. An iteration takes a seat what it computes, or what comes to it over its
    neighbours' lines if that is longer: it computes while the next messages come. Those that were
    lost together wait for each other's microbatches, one stage after the other; one process does
    everything in turn."""
    spent = []
    carried = _carried(orders, fleet, sizes)
    for seat, order in orders:
        total = 0.0
        for step in _steps(order):
            again = _again(order)
            course = again.courses[again.steps[step][0]]
            ops, split = course.schedule.values(), split_backwards(course.schedule)
            busy = sum(
                pace.seconds(op, course.routes[op.microbatch], key(op) in split)
                for op in _computed([op for run in ops for op in run])
            )
            busy += pace.step(seat)
            if fleet.serial:
                total += busy
                continue
            senders = {sender for sender, _ in _received(again, step, seat)} - {seat}
            lines = (fleet.line(sender, seat) for sender in senders)
            total += max(busy, *(carried[again.start + step, line] for line in lines), 0.0)
            if len(orders) > 1:
                total += (len(orders) - 1) * busy / max(1, len(course.routes))
        spent.append(total)
    return sum(spent) if fleet.serial else max(spent, default=0.0)


def _carried(orders: Orders, fleet: Fleet, sizes: Sizes) -> Mapping[tuple[int, Line], float]:
    """Seconds that each line carries messages of an iteration, for all that compute it again."""
    found: defaultdict[tuple[int, Line], float] = defaultdict(float)
    for seat, order in () if fleet.serial else orders:
        for step in _steps(order):
            for way, (there, back) in _received(_again(order), step, seat).items():
                sender, _ = way
                if sender == seat:
                    continue
                count = there * sizes.activation_on(*way) + back * sizes.gradient_on(*way)
                key = _again(order).start + step, fleet.line(sender, seat)
                found[key] += fleet.link(sender, seat).seconds(count)
    return found


def _again(order: Rebuild) -> Again:
    assert order.again is not None
    return order.again


def _steps(order: Rebuild) -> range:
    return range(len(_again(order).steps))


def _computed(ops: Sequence[Op]) -> list[Op]:
    return [op for op in ops if op.kind in (Kind.FORWARD, Kind.BACKWARD, Kind.WEIGHTS)]


def _received(again: Again, step: int, seat: Address) -> Mapping[Way, tuple[int, int]]:
    """By link, how many activations and gradients went to a seat's stage."""
    return _to_stage(again.courses[again.steps[step][0]].routes, seat.stage)


@lru_cache(maxsize=1024)
def _to_stage(routes: tuple[Route, ...], stage: int) -> Mapping[Way, tuple[int, int]]:
    there: Counter[Way] = Counter()
    back: Counter[Way] = Counter()
    for route in routes:
        for hop, seat in enumerate(route):
            if seat.stage == stage and hop > 0 and route[hop - 1] != seat:
                there[route[hop - 1], seat] += 1
            if seat.stage == stage and hop + 1 < len(route) and route[hop + 1] != seat:
                back[route[hop + 1], seat] += 1
    return {way: (there[way], back[way]) for way in (*there, *back)}

"""What log and replay take: bytes that seats keep and send again, and seconds of the replays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

from checkfree.core.ops import Address, Kind, Op, Route, Schedule
from checkfree.messages.control import Again, Rebuild
from checkfree.simulator.fleet import Fleet
from checkfree.simulator.sizes import ComputePace, Sizes

Orders = Sequence[tuple[Address, Rebuild]]


def logged(schedule: Schedule, routes: Sequence[Route], sizes: Sizes) -> Mapping[Address, int]:
    """Bytes that each seat sends to others in an iteration, and adds to its log."""
    found: Counter[Address] = Counter(dict.fromkeys(schedule, 0))
    for route in routes:
        for hop, seat in enumerate(route):
            found[seat] += sizes.activation * (hop + 1 < len(route)) + sizes.gradient * (hop > 0)
    return found


def resent(orders: Orders, sizes: Sizes) -> tuple[int, int]:
    """Bytes of activations and of gradients that all who are replayed get."""
    ways = [
        _received(_again(order), step, seat) for seat, order in orders for step in _steps(order)
    ]
    forwards = sum(sum(there.values()) for there, _ in ways)
    backwards = sum(sum(back.values()) for _, back in ways)
    return forwards * sizes.activation, backwards * sizes.gradient


def received(seat: Address, order: Rebuild, sizes: Sizes) -> int:
    """Bytes that one of them gets."""
    return sum(resent([(seat, order)], sizes))


def replay_seconds(orders: Orders, fleet: Fleet, sizes: Sizes, pace: ComputePace) -> float:
    """Until all are there. A seat computes while the next messages come. Those that were lost
    together wait for each other's microbatches, one stage after the other; one process does
    everything in turn."""
    spent = []
    for seat, order in orders:
        total = 0.0
        for step in _steps(order):
            again = _again(order)
            course = again.courses[again.steps[step][0]]
            ops = [op for run in course.schedule.values() for op in run]
            busy = sum(pace.seconds(op, course.routes[op.microbatch]) for op in _computed(ops))
            busy += pace.step(seat)
            total += (
                busy if fleet.serial else max(busy, _line_seconds(seat, order, step, fleet, sizes))
            )
            if not fleet.serial and len(orders) > 1:
                total += (len(orders) - 1) * busy / max(1, len(course.routes))
        spent.append(total)
    return sum(spent) if fleet.serial else max(spent, default=0.0)


def _line_seconds(seat: Address, order: Rebuild, step: int, fleet: Fleet, sizes: Sizes) -> float:
    """Of an iteration's messages: each sender's line carries its own."""
    there, back = _received(_again(order), step, seat)
    counts = {s: there[s] * sizes.activation + back[s] * sizes.gradient for s in (*there, *back)}
    others = ((sender, count) for sender, count in counts.items() if sender != seat)
    return max((fleet.link(s, seat).seconds(count) for s, count in others), default=0.0)


def _again(order: Rebuild) -> Again:
    assert order.again is not None
    return order.again


def _steps(order: Rebuild) -> range:
    return range(len(_again(order).steps))


def _computed(ops: Sequence[Op]) -> list[Op]:
    return [op for op in ops if op.kind in (Kind.FORWARD, Kind.BACKWARD)]


def _received(again: Again, step: int, seat: Address) -> tuple[Counter[Address], Counter[Address]]:
    """By sender, how many activations and gradients went to a seat's stage."""
    return _to_stage(again.courses[again.steps[step][0]].routes, seat.stage)


@lru_cache(maxsize=1024)
def _to_stage(routes: tuple[Route, ...], stage: int) -> tuple[Counter[Address], Counter[Address]]:
    there: Counter[Address] = Counter()
    back: Counter[Address] = Counter()
    for route in routes:
        for hop, seat in enumerate(route):
            if seat.stage == stage and hop > 0:
                there[route[hop - 1]] += 1
            if seat.stage == stage and hop + 1 < len(route):
                back[route[hop + 1]] += 1
    return there, back

"""One iteration on a fleet, op by op and message by message: when it ends, and where time went.

Every op begins when its worker is free and its input has arrived; every message leaves when the
line is free. What a worker waits for is *bubble* while another one computes, and *transfer* once
the bytes are under way. The mean over workers is what an iteration's seconds are made of.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from checkfree.core.ops import Address, Kind, Mirror, Op, Route, Schedule, Transfer
from checkfree.pipeline import in_turn, key, split_backwards
from checkfree.simulator.fleet import Fleet, Line
from checkfree.simulator.moving import Moving
from checkfree.simulator.sizes import ComputePace, Sizes

LEADS_PLACE = Address(0)
"""The lead sits beside the first stage."""


@dataclass(frozen=True)
class Price:
    """Mean seconds of a worker, which add up to ``total``, and bytes by name of message."""

    total: float
    seconds: dict[str, float]
    bytes: dict[str, int]
    busy: Mapping[Line, float] = field(default_factory=dict)
    """Seconds that each line carried something; one thread has none."""


@dataclass
class NetworkLines:
    """When each line is free again. Sends of one worker come in the order of time."""

    fleet: Fleet
    free: defaultdict[Line, float] = field(default_factory=lambda: defaultdict(float))
    busy: defaultdict[Line, float] = field(default_factory=lambda: defaultdict(float))
    """Seconds that each of them carried something."""

    def send(self, now: float, one: Address, other: Address, count: int) -> float:
        """When ``count`` bytes that are ready ``now`` have arrived."""
        if one == other:
            return now
        link = self.fleet.link(one, other)
        line = self.fleet.line(one, other)
        self.free[line] = max(now, self.free[line]) + link.seconds(count)
        self.busy[line] += link.seconds(count)
        return self.free[line] + link.latency


@dataclass
class _WorkerClock:
    """A worker's time so far, by class."""

    free: float = 0.0
    spent: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def wait(self, until: float, ready: float) -> None:
        """For something that was ready at the sender's at ``ready`` and is here ``until``."""
        if until <= self.free:
            return
        bubble = min(max(ready - self.free, 0.0), until - self.free)
        self.spent["bubble"] += bubble
        self.spent["transfer"] += until - self.free - bubble
        self.free = until

    def work(self, seconds: float, kind: str = "useful") -> None:
        self.spent[kind] += seconds
        self.free += seconds


def price_iteration(
    routes: Sequence[Route],
    schedule: Schedule,
    mirrors: Sequence[Mirror],
    transfers: Sequence[Transfer],
    fleet: Fleet,
    sizes: Sizes,
    pace: ComputePace,
) -> Price:
    """From Begin to the last Stepped, the messages to and from the lead included. The transfers
    travel beside it: they take their share of the lines, and who waits for them last."""
    sent = message_bytes(routes, schedule, mirrors, transfers, sizes)
    moving = Moving(sizes, pace, fleet.offload, pace.room)
    if fleet.serial:
        made = _one_after_another(routes, schedule, mirrors, moving, pace)
        return replace(made, bytes=sent)
    clocks, lines = {worker: _WorkerClock() for worker in schedule}, NetworkLines(fleet)
    arrivals = (
        lines.send(0.0, t.owner, t.holder, sizes.packed[t.what][t.owner.stage]) for t in transfers
    )
    shadowed = max(arrivals, default=0.0)  # the shadows leave at once
    for worker, clock in clocks.items():  # Begin
        clock.wait(fleet.link(LEADS_PLACE, worker).latency, 0.0)
    _run(routes, schedule, clocks, lines, moving)
    _reduce(clocks, lines, sizes, _trained(schedule))
    _keep(mirrors, clocks, lines, sizes)
    total = _commit(mirrors, clocks, fleet, pace)
    for clock in clocks.values():
        clock.work(max(0.0, shadowed - total), "redundant")
    kinds = sorted({kind for clock in clocks.values() for kind in clock.spent})
    spent = {kind: sum(clock.spent[kind] for clock in clocks.values()) for kind in kinds}
    means = {kind: seconds / len(clocks) for kind, seconds in spent.items()}
    return Price(max(total, shadowed), means, sent, dict(lines.busy))


def _run(
    routes: Sequence[Route],
    schedule: Schedule,
    clocks: dict[Address, _WorkerClock],
    lines: NetworkLines,
    moving: Moving,
) -> None:
    """Forwards, backwards and shadows. ``come``: when the input of an op was ready, and is here.
    Of who offloads, ops wait for what is moved, too."""
    sizes, pace = moving.sizes, moving.pace
    come: dict[Op, tuple[float, float]] = {}
    carriers = {
        worker: moving.carrier(worker.stage, ops)
        for worker, ops in schedule.items()
        if worker.stage in pace.offload
    }
    split = split_backwards(schedule)
    for worker, op in in_turn(schedule, {m: len(route) - 1 for m, route in enumerate(routes)}):
        if op.kind is Kind.REDUCE:
            continue
        clock, route, carrier = clocks[worker], routes[op.microbatch], carriers.get(worker)
        ready, here = come.pop(op, (0.0, 0.0))
        clock.wait(here, ready)
        if carrier is not None:
            clock.wait(carrier.begin(clock.free), clock.free)
        seconds = pace.seconds(op, route, key(op) in split)
        clock.work(seconds, "redundant" if op.kind is Kind.REDUNDANT else "useful")
        if carrier is not None:
            clock.wait(carrier.end(clock.free), clock.free)
        following = _following(op, route)
        if following is not None:
            on = sizes.activation_on if op.kind is Kind.FORWARD else sizes.gradient_on
            to = route[following.hop]
            arrival = lines.send(clock.free, worker, to, on(worker, to))
            come[following] = clock.free, arrival


def _following(op: Op, route: Route) -> Op | None:
    """The op that another worker runs with what this one sends."""
    if op.kind is Kind.FORWARD and op.hop + 1 < len(route):
        return Op(Kind.FORWARD, op.microbatch, op.hop + 1)
    if op.kind is Kind.BACKWARD and op.hop > 0:
        return Op(Kind.BACKWARD, op.microbatch, op.hop - 1)
    return None


def _trained(schedule: Schedule) -> frozenset[Address]:
    """Who has gradients to send: replicas that no route visits have none."""
    return frozenset(
        worker for worker, ops in schedule.items() if any(op.kind is Kind.BACKWARD for op in ops)
    )


def _reduce(
    clocks: dict[Address, _WorkerClock],
    lines: NetworkLines,
    sizes: Sizes,
    trained: frozenset[Address],
) -> None:
    """Each replica that has gradients sends them to all others of its stage."""
    done = {worker: clock.free for worker, clock in clocks.items()}
    for worker, clock in clocks.items():
        twins = [twin for twin in done if twin.stage == worker.stage and twin != worker]
        count = sizes.params[worker.stage]
        for arrival, ready in sorted(
            (lines.send(done[twin], twin, worker, count * (twin in trained)), done[twin])
            for twin in twins
        ):
            clock.wait(arrival, ready)


def _keep(
    mirrors: Sequence[Mirror],
    clocks: dict[Address, _WorkerClock],
    lines: NetworkLines,
    sizes: Sizes,
) -> None:
    """Reduced gradients to who holds an exact copy; waiting for them is the copies' cost."""
    done = {worker: clock.free for worker, clock in clocks.items()}
    for keep in mirrors:
        count = sizes.params[keep.owner.stage]
        arrival = lines.send(done[keep.owner], keep.owner, keep.holder, count)
        clock = clocks[keep.holder]
        clock.work(max(0.0, arrival - max(clock.free, done[keep.owner])), "redundant")
        clock.wait(arrival, arrival)


def _commit(
    mirrors: Sequence[Mirror], clocks: dict[Address, _WorkerClock], fleet: Fleet, pace: ComputePace
) -> float:
    """All prepared, everybody steps, all have stepped. Returns when the lead knows."""
    away = {worker: fleet.link(worker, LEADS_PLACE).latency for worker in clocks}
    last = max(clock.free for clock in clocks.values())
    decided = max(clock.free + away[worker] for worker, clock in clocks.items())
    for worker, clock in clocks.items():
        clock.wait(decided + away[worker], last)
        clock.work(pace.step(worker))
    for keep in mirrors:
        clocks[keep.holder].work(pace.step(keep.owner), "redundant")
    last = max(clock.free for clock in clocks.values())
    end = max(clock.free + away[worker] for worker, clock in clocks.items())
    for clock in clocks.values():
        clock.wait(end, last)
    return end


def _one_after_another(
    routes: Sequence[Route],
    schedule: Schedule,
    mirrors: Sequence[Mirror],
    moving: Moving,
    pace: ComputePace,
) -> Price:
    """One thread: nothing overlaps; each seat waits for what it moves, as if it was alone."""
    clock, split = _WorkerClock(), split_backwards(schedule)
    for op in (op for ops in schedule.values() for op in ops if op.kind is not Kind.REDUCE):
        kind = "redundant" if op.kind is Kind.REDUNDANT else "useful"
        clock.work(pace.seconds(op, routes[op.microbatch], key(op) in split), kind)
    for worker, ops in schedule.items():
        clock.work(pace.step(worker))
        if worker.stage in pace.offload:
            waited = moving.waits(worker.stage, ops, moving.chosen(worker.stage, ops))
            clock.wait(clock.free + waited, clock.free)
    for keep in mirrors:
        clock.work(pace.step(keep.owner), "redundant")
    clock.work(pace.overhead)
    return Price(clock.free, dict(clock.spent), {})


def message_bytes(
    routes: Sequence[Route],
    schedule: Schedule,
    mirrors: Sequence[Mirror],
    transfers: Sequence[Transfer],
    sizes: Sizes,
) -> dict[str, int]:
    """What the workers send, by name of message, as a run's ledger counts it."""
    hops = [hop for route in routes for hop in pairwise(route)]
    there = sum(sizes.activation_on(one, other) for one, other in hops)
    back = sum(sizes.gradient_on(other, one) for one, other in hops)
    replicas = Counter(worker.stage for worker in schedule)
    shares = sum((replicas[w.stage] - 1) * sizes.params[w.stage] for w in _trained(schedule))
    kept = sum(sizes.params[mirror.owner.stage] for mirror in mirrors)
    pushed = [sizes.packed[push.what][push.owner.stage] for push in transfers]
    sent = {
        "Activation": there,
        "Gradient": back,
        "Share": shares,
        "KeepGradient": kept,
        "KeepShadow": sum(pushed),
    }
    return {name: count for name, count in sent.items() if count}

"""Schedules from routes: list scheduling in simulated time, in time n log n of the ops.

Rule 1: the result is a function of the arguments alone. Among the ops that are ready when a worker
is free, a forward that may start beats a backward, then the lower microbatch wins. (Backward first
sounds like 1F1B but runs in bursts: 26 % longer than GPipe at 64 stages x 512 microbatches.)
Rule 2: a microbatch goes out along its route and home again, one *step* at a time. So each is at
one place at any moment, and the queues hold nothing but microbatch numbers.
Rule 3: whatever the bounds, a hop of a worker with no microbatch in flight may start one. So who
waits at a hop waits for one further out, and the one furthest out waits for nobody: no deadlock,
whatever the routes.
Rule 4: where backwards are split, the gradient of the weights is what a worker computes while it
would idle. It is not on the way home, nobody waits for it, and it frees what its microbatch holds;
so where a bound on that holds a forward back, such gradients are there to be computed.
Rule 5: where a seat has two chunks, ops go by the places that a pattern gives them, see
``checkfree.pipeline.patterns``, and rules 1 and 3 do not count. A worker that would idle runs a
later op whose input is there, if it never holds more for it than the pattern has it hold.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import NamedTuple, Protocol

from checkfree.core.ops import Address, Kind, Op, Route, Schedule
from checkfree.models.chunks import Chunks
from checkfree.pipeline.lookahead import MOST, SHARES, first_to_end, least_ticks
from checkfree.pipeline.order import key
from checkfree.pipeline.patterns import V_SCHEDULES, Pattern, loop_pattern
from checkfree.pipeline.routes import visits


@dataclass(frozen=True)
class Costs:
    """Relative costs, in forwards of one body stage. Schedules resolve a millionth of that.

    They decide an order and nothing else: with every cost 1, 1F1B comes out worse than GPipe.
    """

    forward: float = 1.0
    """Of a body stage."""

    backward: float = 2.0
    """Of a body stage."""

    embed: float = 0.1
    """Forward of the first hop; its backward costs twice that."""

    head: float = 0.3
    """Forward of the last hop, loss included; its backward costs twice that."""

    transfer: float = 0.0
    """Of an activation or gradient from one worker to another."""

    weights: float = 0.5
    """Share of a backward that is the gradient of the weights, where that is an op of its own."""

    def duration(self, op: Op, route: Route, split: bool = False) -> float:
        """What ``op`` costs the worker that runs it. ``REDUCE`` is free. ``split``: it is a
        backward that leaves the gradient of the weights to another op."""
        if op.kind is Kind.REDUCE:
            return 0.0
        if op.kind is Kind.WEIGHTS:
            return self.weights * self.duration(op._replace(kind=Kind.BACKWARD), route)
        if split:
            return (1 - self.weights) * self.duration(op, route)
        edge = None  # the forward of one of stage 0's two hops
        if op.hop == 0:
            edge = self.embed
        elif op.hop == len(route) - 1:
            edge = self.head
        # A body stage of two chunks computes half of itself at each of its two hops.
        share = 1 if edge is not None else 1 / visits(route)
        if op.kind is Kind.BACKWARD:
            return share * self.backward if edge is None else 2 * edge
        return share * self.forward if edge is None else edge


_USUAL = Costs()
_TICKS = 1_000_000  # per unit of cost; whole numbers, so that equal times are equal


class Scheduler(Protocol):
    """Makes a schedule from routes."""

    def __call__(self, routes: Sequence[Route], costs: Costs = ...) -> Schedule: ...


def gpipe(routes: Sequence[Route], costs: Costs = _USUAL) -> Schedule:
    """All forwards of a worker, then all its backwards (GPipe). Stashes every microbatch.

    Each worker's list ends with ``R``.
    """
    return _ending_in_reduce(_list_schedule(routes, costs, _Rule(forwards_first=True))[0])


def one_f_one_b(routes: Sequence[Route], costs: Costs = _USUAL) -> Schedule:
    """One forward, one backward (PipeDream-flush): with k hops to go, at most k are in flight.

    No worker stashes more microbatches than a route has hops, however many there are. Where routes
    cross (CheckFree+), one more, and stage 0 three: without, they wait for each other and take up
    to 18 % longer. Each worker's list ends with ``R``.
    """
    return _ending_in_reduce(_list_schedule(routes, costs, _bounded(routes))[0])


def zb_h1(routes: Sequence[Route], costs: Costs = _USUAL) -> Schedule:
    """1F1B with split backwards: gradients of weights fill the bubble (ZB-H1, arXiv 2401.10241).

    As many are in flight as with 1F1B, and no worker stashes more microbatches than 1F1B's bound
    for the busiest of the body (stage 0: its own): a microbatch counts until the gradient of the
    weights is there. The backward of the first hop is not split: all of it is of weights.
    """
    return _ending_in_reduce(_placed(routes, costs, _bounded(routes, splits=True)))


def zb_h2(routes: Sequence[Route], costs: Costs = _USUAL) -> Schedule:
    """ZB-H1 with twice the microbatches in flight, less one, so that the first backward comes
    before a worker has to wait for it (ZB-H2, arXiv 2401.10241).

    With forwards and both halves of backwards of equal length, a worker of a plain chain does not
    idle between its first op and its last, given twice as many microbatches as body stages and one.
    The iteration is as long as ZB-H1's then, for it ends in a step of all, which the paper does
    without: what there is to gain is where activations take their time from one to the next, or
    the gradient by the input takes longer than that by the weights. Where more in flight makes it
    longer, as with few microbatches, it is ZB-H1. No worker stashes twice of ZB-H1's bound.
    """
    rules = _bounded(routes, splits=True, depth=2), _bounded(routes, splits=True)
    return _ending_in_reduce(_placed(routes, costs, *rules))


def interleaved(routes: Sequence[Route], costs: Costs = _USUAL) -> Schedule:
    """Interleaved 1F1B (arXiv 2104.04473): with two chunks a seat, half the bubble of 1F1B, for
    which twice as much is sent and half as much again is held. Each list ends with ``R``."""
    stages = _stages_of_two_chunks(routes)
    return _steady(routes, costs, loop_pattern(stages, 3 * stages), splits=False)


def zbv(routes: Sequence[Route], costs: Costs = _USUAL) -> Schedule:
    """ZBV (V-ZB of arXiv 2405.15362): no bubble with the memory of 1F1B, where forwards and both
    halves of backwards are of equal length. Each list ends with ``R``."""
    return _v_schedule("zbv", routes, costs)


def v_half(routes: Sequence[Route], costs: Costs = _USUAL) -> Schedule:
    """V-Half (arXiv 2405.15362): half the memory of 1F1B, and half its bubble."""
    return _v_schedule("v_half", routes, costs)


def v_min(routes: Sequence[Route], costs: Costs = _USUAL) -> Schedule:
    """V-Min (arXiv 2405.15362): a third of the memory of 1F1B, and two thirds of its bubble."""
    return _steady(routes, costs, _v_pattern("v_min", routes, costs), splits=True)


def _steady(routes: Sequence[Route], costs: Costs, pattern: Pattern, *, splits: bool) -> Schedule:
    """By a pattern that running ahead may push out of its step for good: whether that pays is tried
    on the first microbatches."""
    first = routes[: 3 * _stages_of_two_chunks(routes)]
    strictly, freely = (
        _by_pattern(first, costs, pattern, splits=splits, strict=strict)[1]
        for strict in (True, False)
    )
    found = _by_pattern(routes, costs, pattern, splits=splits, strict=strictly <= freely)
    return _ending_in_reduce(found[0])


def _v_schedule(name: str, routes: Sequence[Route], costs: Costs) -> Schedule:
    pattern = _v_pattern(name, routes, costs)
    return _ending_in_reduce(_by_pattern(routes, costs, pattern, splits=True)[0])


def _v_pattern(name: str, routes: Sequence[Route], costs: Costs) -> Pattern:
    stages = _stages_of_two_chunks(routes)
    slot = max(costs.forward / 2, 1 / _TICKS)
    lag = math.ceil(3 * costs.head / slot)  # its forward, and a backward of twice that
    return V_SCHEDULES[name].pattern(stages, min(lag, stages))


def _stages_of_two_chunks(routes: Sequence[Route]) -> int:
    """Body stages, each of which these routes visit twice. Raises ValueError."""
    if any(visits(route) != 2 for route in routes):
        raise ValueError("this schedule is for seats of two chunks, which a route visits twice")
    return max(((len(route) - 2) // 2 for route in routes), default=1)


def forward_only(routes: Sequence[Route]) -> Schedule:
    """Forwards alone, without ``R``: what validation runs."""
    lists, _ = _list_schedule(routes, _USUAL, _Rule(homeward=False))
    return {worker: tuple(ops) for worker, ops in lists.items()}


SCHEDULES: Mapping[str, Scheduler] = {
    "gpipe": gpipe,
    "1f1b": one_f_one_b,
    "zb_h1": zb_h1,
    "zb_h2": zb_h2,
    "interleaved": interleaved,
    "zbv": zbv,
    "v_half": v_half,
    "v_min": v_min,
}

TWICE: Mapping[str, Chunks] = {
    "interleaved": Chunks.LOOP,
    **dict.fromkeys(V_SCHEDULES, Chunks.V),
}
"""The schedules whose routes visit a body seat twice, and what it has then."""


def chunks_of(schedule: str) -> Chunks:
    """Of each body stage, as a schedule of that name has routes visit them. Raises ValueError for
    ``auto``, which nobody has decided yet."""
    if schedule == "auto":
        raise ValueError("schedule=auto is not decided yet")
    return TWICE.get(schedule, Chunks.WHOLE)


@dataclass(frozen=True)
class _Rule:
    """What a schedule adds to "run what is ready"."""

    bounded: bool = False  # with k hops to go, at most k + spare microbatches are in flight
    spare: int = 0
    spare_at_start: int = 0  # the same, at the first hop
    depth: int = 1  # so many times k are, less depth - 1
    forwards_first: bool = False  # a worker's backwards wait for its last forward
    homeward: bool = True  # there are backwards
    splits: bool = False  # the gradient of the weights is apart, but for the first hop's
    ahead: float = 0.0  # which is begun only if this share of it is done before anything arrives

    def limit(self, hop: int, num_hops: int) -> float:
        """The most microbatches in flight at a hop."""
        if not self.bounded:
            return math.inf
        spare = self.spare if hop else self.spare_at_start
        return self.depth * (num_hops - hop) - (self.depth - 1) + spare

    def stash(self, hop: int, num_hops: int) -> float:
        """The most microbatches that a worker with this hop holds until it has all gradients: for
        each of the body, as many as the first of them may have in flight."""
        several = 1 if self.spare and hop else 0  # where routes cross, a worker has several hops
        return self.limit(min(hop, 1), num_hops) + several


def _bounded(routes: Sequence[Route], depth: int = 1, splits: bool = False) -> _Rule:
    crossing = len({tuple(worker.stage for worker in route) for route in routes}) > 1
    spare, spare_at_start = (1, 3) if crossing else (0, 0)
    return _Rule(True, spare, spare_at_start, depth=depth, splits=splits)


class _Step(NamedTuple):
    """One op of a microbatch's way out and home. It needs the step before it, and nothing else."""

    worker: int
    ticks: int  # that it takes
    delay: int  # ticks that its input travels
    kind: Kind
    hop: int
    slot: int | None  # the hop whose slot a forward takes, its backward frees; None on a revisit
    later: int | None  # of a backward: ticks of the gradient of the weights that it leaves out


def _steps(route: Route, costs: Costs, rule: _Rule, numbers: Mapping[Address, int]) -> list[_Step]:
    hops = range(len(route))
    way = [(Kind.FORWARD, hop) for hop in hops]
    way += [(Kind.BACKWARD, hop) for hop in reversed(hops) if rule.homeward]
    steps, came_from = [], route[0]
    for kind, hop in way:
        worker = route[hop]
        split = rule.splits and kind is Kind.BACKWARD and hop > 0
        ticks = round(_TICKS * costs.duration(Op(kind, 0, hop), route, split))
        weights = costs.duration(Op(Kind.WEIGHTS, 0, hop), route) if split else None
        delay = round(_TICKS * costs.transfer) if worker != came_from else 0
        # Stage 0 holds a microbatch from its first hop on, so its last hop needs no second slot.
        slot = hop if route.index(worker) == hop else None
        later = None if weights is None else round(_TICKS * weights)
        steps.append(_Step(numbers[worker], ticks, delay, kind, hop, slot, later))
        came_from = worker
    return steps


@dataclass
class _WorkerQueue:
    """One worker while its list is made: what is ready, what is in flight, what it has run."""

    rule: _Rule
    limits: dict[int, float] = field(default_factory=dict)  # slot -> most in flight
    in_flight: dict[int, int] = field(default_factory=dict)
    outward: dict[int | None, list[int]] = field(default_factory=dict)  # slot -> heap of ready
    homeward: list[int] = field(default_factory=list)
    later: deque[tuple[int, _Step]] = field(default_factory=deque)  # backwards that left weights
    coming: list[int] = field(default_factory=list)  # heap: when what is on its way here arrives
    stash: float = math.inf
    held: dict[int, int] = field(default_factory=dict)  # microbatch -> hops without all gradients
    forwards_left: int = 0
    busy: bool = False
    ops: list[Op] = field(default_factory=list)

    def expect(self, step: _Step, num_hops: int) -> None:
        """Makes room for a step that will come."""
        if step.kind is Kind.BACKWARD:
            return
        self.forwards_left += 1
        self.outward.setdefault(step.slot, [])
        if step.slot is not None:
            self.in_flight[step.slot] = 0
            self.limits[step.slot] = self.rule.limit(step.slot, num_hops)
            self.stash = self.rule.stash(step.slot, num_hops)

    def file(self, microbatch: int, step: _Step) -> None:
        """The input of a step is here."""
        heap = self.homeward if step.kind is Kind.BACKWARD else self.outward[step.slot]
        heappush(heap, microbatch)

    def choose(self) -> int | None:
        """Takes the best microbatch that may run now off its queue."""
        best: list[int] | None = None
        for slot, heap in self.outward.items():
            if heap and (best is None or heap[0] < best[0]) and self._may_start(slot):
                best = heap
        if best:
            return heappop(best)
        held_back = self.rule.forwards_first and self.forwards_left
        return heappop(self.homeward) if self.homeward and not held_back else None

    def _may_start(self, slot: int | None) -> bool:
        if slot is None:
            return True
        if self.later and len(self.held) >= self.stash:
            return False  # what waits for its weights' gradient makes room first
        if not self.in_flight[slot]:
            return True
        if self.in_flight[slot] >= self.limits[slot]:
            return False
        # As many as at the hop with the most room, and one for each other hop.
        room = max(self.limits.values()) + len(self.limits) - 1
        return sum(self.in_flight.values()) < room

    def start(self, microbatch: int, step: _Step) -> None:
        """Runs a step: the worker is busy until it is told otherwise."""
        self.busy = True
        self.ops.append(Op(step.kind, microbatch, step.hop))
        forward = step.kind is Kind.FORWARD
        self.forwards_left -= forward
        if step.slot is not None:
            self.in_flight[step.slot] += 1 if forward else -1
        if forward:
            self.held[microbatch] = self.held.get(microbatch, 0) + 1
        elif step.later is None:
            self._release(microbatch)
        else:
            self.later.append((microbatch, step))

    def has_time(self, now: int) -> bool:
        """For the gradient of the weights that waits longest, before something arrives."""
        ticks = self.later[0][1].later
        assert ticks is not None
        return not self.coming or self.coming[0] >= now + self.rule.ahead * ticks

    def start_weights(self) -> int:
        """Computes the gradient of the weights that waits longest; returns its ticks."""
        self.busy = True
        microbatch, step = self.later.popleft()
        self.ops.append(Op(Kind.WEIGHTS, microbatch, step.hop))
        self._release(microbatch)
        assert step.later is not None
        return step.later

    def _release(self, microbatch: int) -> None:
        self.held[microbatch] -= 1
        if not self.held[microbatch]:
            del self.held[microbatch]


@dataclass
class _PlacedQueue(_WorkerQueue):
    """A worker that runs its ops by their places, as far as it needs not idle."""

    planned: list[Op | None] = field(default_factory=list)  # in order; None: has run
    counted: bool = False  # a microbatch counts once, as at stage 0, and not each of its hops
    most: int = 0  # that it may hold
    strict: bool = False  # it never leaves the order
    ready: set[Op] = field(default_factory=set)
    first: int = 0  # of those that have not run
    holds: int = 0  # without those whose weights' gradient alone is missing

    def expect(self, step: _Step, num_hops: int) -> None:
        """Its ops are known."""

    def bound(self, most: int) -> None:
        """It may hold so many, or as many as its order takes."""
        held = peak = 0
        for op in self.planned:
            held += self._adds(op)
            peak = max(peak, held)
        self.most = max(most, peak)

    def file(self, microbatch: int, step: _Step) -> None:
        self.ready.add(Op(step.kind, microbatch, step.hop))

    def choose(self) -> int | None:
        if not self.ready:
            return None
        while self.planned[self.first] is None:
            self.first += 1
        op = self.planned[self.first]
        full = bool(self.later) and self._adds(op) > 0 and self._all_held >= self.most
        if op in self.ready and not full:
            return self._take(self.first)
        return None if self.strict or self.later else self._out_of_turn()

    def _out_of_turn(self) -> int | None:
        """The next op that can run, if what is before it still finds room then."""
        held = peak = self.holds
        for at in range(self.first, min(len(self.planned), self.first + 2 * self.most)):
            op = self.planned[at]
            if op in self.ready and peak + max(0, self._adds(op)) <= self.most:
                return self._take(at)
            held += self._adds(op)
            peak = max(peak, held)
        return None

    def _take(self, at: int) -> int:
        op, self.planned[at] = self.planned[at], None
        assert op is not None
        self.ready.discard(op)
        self.holds += self._adds(op)
        return op.microbatch

    @property
    def _all_held(self) -> int:
        return self.holds + len(self.later)

    def _adds(self, op: Op | None) -> int:
        """To what it holds."""
        if op is None or (self.counted and op.hop):
            return 0
        return 1 if op.kind is Kind.FORWARD else -1


def _by_pattern(
    routes: Sequence[Route], costs: Costs, pattern: Pattern, *, splits: bool, strict: bool = False
) -> tuple[dict[Address, list[Op]], int]:
    """The ops of each worker, by a pattern's places, and the ticks that they take together."""
    places: dict[Address, list[tuple[float, Op]]] = {}
    busiest = max(Counter(seat for route in routes for seat in {*route[1:-1]}).values())
    for microbatch, route in enumerate(routes):
        number = microbatch * busiest // len(routes)  # about the how manieth it is there
        for hop, seat in enumerate(route):
            for kind in (Kind.FORWARD, Kind.BACKWARD):
                place = pattern.place(number, hop, forward=kind is Kind.FORWARD)
                places.setdefault(seat, []).append((place, Op(kind, microbatch, hop)))
    rule, workers = _Rule(splits=splits), sorted(places)
    numbers = {worker: number for number, worker in enumerate(workers)}
    by_route = {
        route: [step._replace(slot=None) for step in _steps(route, costs, rule, numbers)]
        for route in set(routes)
    }
    queues = []
    for worker in workers:
        order = sorted(places[worker], key=lambda placed: (placed[0], key(placed[1])))
        ops: list[Op | None] = [op for _, op in order]
        queue = _PlacedQueue(rule, planned=ops, counted=worker.stage == 0, strict=strict)
        queue.bound(pattern.most if worker.stage else 0)
        queues.append(queue)
    ticks = _simulate([by_route[route] for route in routes], queues)
    return {worker: queue.ops for worker, queue in zip(workers, queues, strict=True)}, ticks


def _placed(routes: Sequence[Route], costs: Costs, *rules: _Rule) -> dict[Address, list[Op]]:
    """The ops of each worker by the rule that ends first, with gradients of weights where they hold
    up the least."""
    numbers = {worker: n for n, worker in enumerate({w for route in routes for w in route})}
    parts = {
        route: [(s.worker, s.ticks, s.later or 0, s.delay) for s in way]
        for route in set(routes)
        for way in [_steps(route, costs, rules[0], numbers)]
    }
    least = least_ticks(parts[route] for route in routes)
    options = [replace(rule, ahead=share) for share in SHARES for rule in rules]
    most = max(len(rules), MOST // (3 * sum(map(len, routes))))
    return first_to_end((_list_schedule(routes, costs, o) for o in options[:most]), least)


def _list_schedule(
    routes: Sequence[Route], costs: Costs, rule: _Rule
) -> tuple[dict[Address, list[Op]], int]:
    """The ops of each worker, and the ticks that they take together."""
    workers = sorted({worker for route in routes for worker in route})
    numbers = {worker: number for number, worker in enumerate(workers)}
    by_route = {route: _steps(route, costs, rule, numbers) for route in set(routes)}
    queues = [_WorkerQueue(rule) for _ in workers]
    ways = [by_route[route] for route in routes]
    for route, way in zip(routes, ways, strict=True):
        for step in way:
            queues[step.worker].expect(step, len(route))
    ticks = _simulate(ways, queues)
    return {worker: queue.ops for worker, queue in zip(workers, queues, strict=True)}, ticks


def _simulate(ways: Sequence[Sequence[_Step]], queues: Sequence[_WorkerQueue]) -> int:
    """Runs every step; returns when the last one ends, in ticks. An event is a microbatch m that
    arrives (m) or a worker w set free (~w)."""
    now = 0
    ahead = [iter(way) for way in ways]
    at = [next(steps) for steps in ahead]
    events = [(0, microbatch) for microbatch in range(len(ways))]
    while events:
        now, touched = events[0][0], set()
        while events and events[0][0] == now:
            event = heappop(events)[1]
            worker = at[event].worker if event >= 0 else ~event
            touched.add(worker)
            if event >= 0:
                queues[worker].file(event, at[event])
                if queues[worker].coming:
                    heappop(queues[worker].coming)
            else:
                queues[worker].busy = False
        for worker in sorted(touched):
            queue = queues[worker]
            if queue.busy:
                continue
            microbatch = queue.choose()
            if microbatch is None:
                if queue.later and queue.has_time(now):
                    heappush(events, (now + queue.start_weights(), ~worker))
                continue
            step = at[microbatch]
            queue.start(microbatch, step)
            heappush(events, (now + step.ticks, ~worker))
            following = next(ahead[microbatch], None)
            if following is not None:
                at[microbatch] = following
                arrives = now + step.ticks + following.delay
                heappush(events, (arrives, microbatch))
                heappush(queues[following.worker].coming, arrives)
    return now


def _ending_in_reduce(lists: Mapping[Address, Sequence[Op]]) -> Schedule:
    return {worker: (*ops, Op(Kind.REDUCE)) for worker, ops in lists.items()}

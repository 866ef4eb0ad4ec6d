"""Refuses a schedule that would not train what its routes say, and points at the op to blame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from checkfree.core.ops import Address, Kind, Op, Route, Schedule
from checkfree.pipeline.order import ScheduleError, excerpt, in_turn, key
from checkfree.pipeline.stash import Moves, in_memory


def check(
    schedule: Schedule,
    routes: Sequence[Route],
    stash: int | None = None,
    backward: bool = True,
    moved: Mapping[Address, Moves] = MappingProxyType({}),
) -> None:
    """Raises ScheduleError unless a schedule can run and covers its routes.

    Every microbatch visits every hop of its route once each way (``backward=False``: once, out),
    on the worker that the route names, forward before backward; each worker's list ends with its
    only ``R`` (``backward=False``: has none); no deadlock (DeadlockError); no worker holds more
    than ``stash`` microbatches, see :func:`peak_stash`; where it moves some of them out of its
    memory (``moved``), of those that stay and those on their way. ``W3@1`` may stand once, on the
    worker of ``B3@1`` and after it. A redundant ``R3@2`` may stand once, on the worker of hop 1,
    after ``F3@1``.
    """
    for worker in schedule:
        _check_places(schedule, worker, routes)
        _check_row(schedule, worker)
        _check_direction(schedule, worker, backward)
    _check_whole(schedule, routes, backward)
    for _ in in_turn(schedule, {m: len(route) - 1 for m, route in enumerate(routes)}):
        pass
    if stash is not None:
        _check_stash(schedule, stash, moved)


def peak_stash(schedule: Schedule) -> Mapping[Address, int]:
    """The most microbatches that each worker holds at once between forward and backward, or the
    gradient of its weights where that is apart.

    At stage 0 a microbatch counts once, from its first forward there to its last backward; at a
    body stage that is visited twice, once for each chunk.
    """
    return {worker: max(_held(worker, ops), default=0) for worker, ops in schedule.items()}


def peak_losses(schedule: Schedule) -> int:
    """The most microbatches of which stage 0 holds, at once, what its loss was computed from."""
    later = {w: [op for op in ops if op.hop > 0] for w, ops in schedule.items() if w.stage == 0}
    return max((max(_held(w, ops), default=0) for w, ops in later.items()), default=0)


def peak_split(schedule: Schedule) -> Mapping[Address, int]:
    """The most microbatches that each worker holds at once between the two halves of a backward."""
    found = {}
    for worker, ops in schedule.items():
        apart = {(op.microbatch, op.hop) for op in ops if op.kind is Kind.WEIGHTS}
        halves = [op for op in ops if (op.microbatch, op.hop) in apart]
        as_stash = (op._replace(kind=_HALVES[op.kind]) for op in halves if op.kind in _HALVES)
        found[worker] = max(_held(worker, tuple(as_stash)), default=0)
    return found


_HALVES = {Kind.BACKWARD: Kind.FORWARD, Kind.WEIGHTS: Kind.BACKWARD}
"""What begins and ends what is held between halves, as what begins and ends a stash."""


def _held(worker: Address, ops: Sequence[Op]) -> Iterator[int]:
    """How many microbatches, or chunks of them, a worker holds after each of its ops."""
    apart = {(op.microbatch, op.hop) for op in ops if op.kind is Kind.WEIGHTS}
    hops: dict[tuple[int, int], int] = {}  # of what is held, between forward and backward
    for kind, microbatch, hop in ops:
        held = microbatch, hop if worker.stage else 0
        if kind is Kind.FORWARD:
            hops[held] = hops.get(held, 0) + 1
        elif kind is Kind.WEIGHTS or (
            kind is Kind.BACKWARD and not (apart and (microbatch, hop) in apart)
        ):
            hops[held] -= 1
            if not hops[held]:
                del hops[held]
        yield len(hops)


def _check_places(schedule: Schedule, worker: Address, routes: Sequence[Route]) -> None:
    """Each op is one that the routes know, on the worker where they have it."""
    for at, (kind, microbatch, hop) in enumerate(schedule[worker]):
        if kind is Kind.REDUCE:
            continue
        if not 0 <= microbatch < len(routes):
            raise _error(schedule, worker, at, f"there is no route {microbatch}")
        route, redundant = routes[microbatch], kind is Kind.REDUNDANT
        if not redundant <= hop < len(route):
            raise _error(schedule, worker, at, f"route {microbatch} has no such hop")
        if route[hop - redundant] != worker:
            place = f"hop {hop - redundant} of route {microbatch} is {route[hop - redundant]}"
            raise _error(schedule, worker, at, f"stands on {worker}, but {place}")


def _check_row(schedule: Schedule, worker: Address) -> None:
    """Each op stands once, after those of the same worker that it needs."""
    seen: set[int] = set()
    for at, op in enumerate(schedule[worker]):
        kind, microbatch, hop = op
        if kind is Kind.REDUCE:
            continue
        if (known := key(op)) in seen:
            raise _error(schedule, worker, at, f"stands on {worker} twice")
        seen.add(known)
        if kind is Kind.FORWARD:
            continue
        # As keys, for a hundred thousand ops: F, R, B, W of a hop follow each other.
        behind = 2 if kind is Kind.BACKWARD else 1 if kind is Kind.WEIGHTS else 4 + 1
        if known - behind not in seen:
            first = Kind.BACKWARD if kind is Kind.WEIGHTS else Kind.FORWARD
            needed = Op(first, microbatch, hop - (kind is Kind.REDUNDANT))
            raise _error(schedule, worker, at, f"comes before {needed} of the same worker")


def _check_direction(schedule: Schedule, worker: Address, backward: bool) -> None:
    """``R`` stands last, and only there; without backwards, neither they nor it stand anywhere."""
    ops = schedule[worker]
    for at, op in enumerate(ops):
        if not backward and op.kind not in (Kind.FORWARD, Kind.REDUNDANT):
            raise _error(schedule, worker, at, "has no place in a schedule that only goes forward")
        if op.kind is Kind.REDUCE and at + 1 < len(ops):
            raise _error(schedule, worker, at, "must be the worker's last op")
    if backward and not (ops and ops[-1].kind is Kind.REDUCE):
        raise _missing(schedule, worker, Op(Kind.REDUCE))


def _check_whole(schedule: Schedule, routes: Sequence[Route], backward: bool) -> None:
    """Nothing that the routes ask for is missing."""
    kinds = (Kind.FORWARD, Kind.BACKWARD) if backward else (Kind.FORWARD,)
    # All stand where they belong, and once: so their number tells whether one is missing.
    have = sum(op.kind in kinds for ops in schedule.values() for op in ops)
    if have == len(kinds) * sum(map(len, routes)):
        return
    seen = {key(op) for ops in schedule.values() for op in ops}
    for microbatch, route in enumerate(routes):
        for hop, worker in enumerate(route):
            for op in (Op(kind, microbatch, hop) for kind in kinds):
                if key(op) not in seen:
                    raise _missing(schedule, worker, op)


def _check_stash(schedule: Schedule, stash: int, moved: Mapping[Address, Moves]) -> None:
    for worker, ops in schedule.items():
        moves = moved.get(worker)
        stays = _held(worker, ops) if moves is None else in_memory(ops, moves, lambda hop: 1)
        for at, held in enumerate(stays):
            if held > stash:
                why = f"makes {worker} hold {held} microbatches, and at most {stash} are allowed"
                raise _error(schedule, worker, at, why)


def _error(schedule: Schedule, worker: Address, at: int, why: str) -> ScheduleError:
    op = schedule[worker][at]
    return ScheduleError(f"{op} {why}\n{excerpt(schedule, {worker: at})}")


def _missing(schedule: Schedule, worker: Address, op: Op) -> ScheduleError:
    row = schedule.get(worker, ())
    return ScheduleError(f"{op} is missing on {worker}\n{excerpt(schedule, {worker: len(row)})}")

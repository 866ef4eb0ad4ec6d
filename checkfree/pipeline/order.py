"""What an op waits for, and the order in which a schedule's ops can run."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence

from checkfree.core.ops import Address, Kind, Op, Route, Schedule

_ROWS, _AROUND = 12, 3  # workers, and ops on either side of the marked one, that an error shows


class ScheduleError(ValueError):
    """A schedule that must not run. One line that says why, then the rows it is about."""


class DeadlockError(ScheduleError):
    """No worker can run its next op. The picture marks it, and says what it waits for."""


def needs(op: Op, routes: Sequence[Route]) -> tuple[Op, ...]:
    """The ops that must have run, on whatever worker, before this one can."""
    if op.kind is Kind.REDUCE:
        return ()
    if op.kind is Kind.WEIGHTS:
        return (op._replace(kind=Kind.BACKWARD),)
    if op.kind is Kind.BACKWARD:
        forward = op._replace(kind=Kind.FORWARD)
        if op.hop == len(routes[op.microbatch]) - 1:
            return (forward,)
        return (forward, op._replace(hop=op.hop + 1))
    return (Op(Kind.FORWARD, op.microbatch, op.hop - 1),) if op.hop > 0 else ()


def in_turn(schedule: Schedule, last_hops: Mapping[int, int]) -> Iterator[tuple[Address, Op]]:
    """Every op of a schedule, each after all that it needs. Takes time linear in the ops.

    ``last_hops`` is the index of the last hop of each microbatch's route. Raises DeadlockError
    where nobody can go on.
    """
    reached = dict.fromkeys(schedule, 0)
    done: set[int] = {_START}
    waiting: defaultdict[int, list[Address]] = defaultdict(list)
    awake = deque(sorted(schedule))
    while awake:
        worker = awake.popleft()
        ops, at = schedule[worker], reached[worker]
        while at < len(ops):
            before = _before(ops[at], last_hops)
            if before not in done:
                waiting[before].append(worker)
                break
            yield worker, ops[at]
            done.add(known := key(ops[at]))
            awake.extend(waiting.pop(known, ()))
            at += 1
        reached[worker] = at
    if any(waiting.values()):
        raise _deadlock(schedule, reached, last_hops)


# A microbatch goes out and home again one op at a time, so each op waits for one other: B@h needs
# no look at F@h. W@h waits for B@h. Plain numbers, because hashing an Enum costs ten times more.
_START = -1


def key(op: Op) -> int:
    """An op as a number: equal for equal ops. Those of a hop follow each other: F, R, B, W."""
    kind, microbatch, hop = op
    place = (microbatch << 32) + (hop << 2)
    if kind is Kind.FORWARD:
        return place
    if kind is Kind.BACKWARD:
        return place + 2
    return place + (3 if kind is Kind.WEIGHTS else 1)


def split_backwards(schedule: Schedule) -> frozenset[int]:
    """The keys of the backwards that leave the gradient of the weights to an op of its own."""
    return frozenset(
        (op.microbatch << 32) + (op.hop << 2) + 2
        for ops in schedule.values()
        for op in ops
        if op.kind is Kind.WEIGHTS
    )


def _before(op: Op, last_hops: Mapping[int, int]) -> int:
    kind, microbatch, hop = op
    if kind is Kind.BACKWARD:
        at_end = hop == last_hops[microbatch]
        return (microbatch << 32) + (hop << 2 if at_end else (hop + 1 << 2) + 2)
    if kind is Kind.WEIGHTS:
        return (microbatch << 32) + (hop << 2) + 2
    return _START if hop <= 0 else (microbatch << 32) + (hop - 1 << 2)


def _deadlock(
    schedule: Schedule, reached: Mapping[Address, int], last_hops: Mapping[int, int]
) -> DeadlockError:
    stuck = {w: at for w, at in reached.items() if at < len(schedule[w])}
    notes = {w: f"waits for {_awaited(schedule[w][at], last_hops)}" for w, at in stuck.items()}
    total = sum(map(len, schedule.values()))
    line = f"deadlock: no worker can run its next op ({sum(reached.values())} of {total} ops ran)"
    return DeadlockError(f"{line}\n{excerpt(schedule, stuck, notes)}")


def _awaited(op: Op, last_hops: Mapping[int, int]) -> Op:
    if op.kind is Kind.WEIGHTS:
        return op._replace(kind=Kind.BACKWARD)
    if op.kind is not Kind.BACKWARD:
        return Op(Kind.FORWARD, op.microbatch, op.hop - 1)
    if op.hop == last_hops[op.microbatch]:
        return op._replace(kind=Kind.FORWARD)
    return op._replace(hop=op.hop + 1)


def excerpt(
    schedule: Schedule, marks: Mapping[Address, int], notes: Mapping[Address, str] | None = None
) -> str:
    """The rows of ``marks`` around the op at the marked place: ``2.0 | ... F0@1 [B0@2] B1@2``."""
    notes = notes or {}
    rows = []
    for worker, at in sorted(marks.items())[:_ROWS]:
        row = _around(schedule.get(worker, ()), at)
        rows.append(f"{worker!s:>5} | {row}{'   ' * (worker in notes)}{notes.get(worker, '')}")
    if len(marks) > _ROWS:
        rows.append(f"  ... and {len(marks) - _ROWS} more workers")
    return "\n".join(rows)


def _around(ops: Sequence[Op], at: int) -> str:
    first, end = max(at - _AROUND, 0), at + _AROUND + 1
    cells = [f"[{op}]" if i == at else str(op) for i, op in enumerate(ops[:end]) if i >= first]
    if at >= len(ops):
        cells.append("[ ]")
    return " ".join([*(["..."] * (first > 0)), *cells, *(["..."] * (end < len(ops)))])

"""A schedule as text: the grid that papers draw, and back again."""

from __future__ import annotations

from collections.abc import Mapping

from checkfree.core.ops import Address, Kind, Op, Schedule
from checkfree.pipeline.order import DeadlockError, in_turn

_IDLE = "."


def render(schedule: Schedule) -> str:
    """One row a worker; one column a slot of unit time, ``.`` where the worker idles::

        0.0 | F0@0 F1@0 .    .    B0@0 B1@0 R
        1.0 | .    F0@1 F1@1 B0@1 B1@1 R

    A schedule that cannot run has no time: its rows stand side by side, without idling.
    """
    grid = _grid(schedule)
    cells = [cell for row in grid.values() for cell in row.values()]
    width = max(map(len, cells), default=1)
    margin = max((len(str(worker)) for worker in grid), default=0)
    lines = []
    for worker, row in sorted(grid.items()):
        across = (row.get(slot, _IDLE) for slot in range(max(row, default=-1) + 1))
        lines.append(f"{worker!s:>{margin}} | {' '.join(f'{c:<{width}}' for c in across)}".rstrip())
    return "\n".join(lines)


def parse(text: str) -> Schedule:
    """Inverse of :func:`render`. Raises ValueError for a row that is none."""
    schedule: dict[Address, tuple[Op, ...]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        worker, bar, row = line.partition("|")
        address = Address.parse(worker.strip())
        if not bar or address in schedule:
            raise ValueError(f"not a row of a schedule: {line!r} (expected '1.0 | F0@1 B0@1 R')")
        schedule[address] = tuple(Op.parse(cell) for cell in row.split() if cell != _IDLE)
    return schedule


def _grid(schedule: Schedule) -> Mapping[Address, Mapping[int, str]]:
    """What stands in each slot of each worker's row."""
    ends: dict[tuple[int, int, bool], int] = {}
    free = dict.fromkeys(schedule, 0)
    grid: dict[Address, dict[int, str]] = {worker: {} for worker in schedule}
    try:
        for worker, op in in_turn(schedule, _last_hops(schedule)):
            slot = max(free[worker], _earliest(op, ends))
            grid[worker][slot] = str(op)
            free[worker] = slot + 1
            if op.kind in (Kind.FORWARD, Kind.BACKWARD):  # only for these does another op wait
                ends[op.microbatch, op.hop, op.kind is Kind.BACKWARD] = slot + 1
    except DeadlockError:
        return {worker: dict(enumerate(map(str, ops))) for worker, ops in schedule.items()}
    return grid


def _earliest(op: Op, ends: Mapping[tuple[int, int, bool], int]) -> int:
    kind, microbatch, hop = op
    if kind is Kind.WEIGHTS:
        return 0  # its backward is in the same row
    if kind is Kind.BACKWARD:
        onward = ends.get((microbatch, hop + 1, True), 0)
        return max(onward, ends.get((microbatch, hop, False), 0))
    return ends.get((microbatch, hop - 1, False), 0)


def _last_hops(schedule: Schedule) -> dict[int, int]:
    last: dict[int, int] = {}
    for ops in schedule.values():
        for op in ops:
            last[op.microbatch] = max(op.hop, last.get(op.microbatch, 0))
    return last

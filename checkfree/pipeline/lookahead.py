"""Where gradients of weights go: greedily, or only into gaps that are long enough for them.

A worker that would idle computes one at once, and who waits for what arrives meanwhile waits
longer. Where both halves of a backward take equally long, nobody does; else it may be better to
idle for a moment. For how long is tried, and the schedule that ends first is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

SHARES = (0.0, 0.5, 0.75)
"""Of a gradient of weights, that has to be done before something arrives. 0 is greedy; 0.25 and 1
were never better by more than a hundredth than the best of these."""
MOST = 200_000
"""Ops of all that is tried for one schedule: a second, or less where nothing is left to gain."""

Lists = TypeVar("Lists")


def first_to_end(options: Iterable[tuple[Lists, int]], least: int) -> Lists:
    """Of schedules and their ticks, the first of those that take the fewest. ``least``: ticks that
    any takes; once one takes no more, no further one is made."""
    best: tuple[Lists, int] | None = None
    for option in options:
        if best is None or option[1] < best[1]:
            best = option
        if best[1] <= least:
            break
    assert best is not None
    return best[0]


def least_ticks(ways: Iterable[Sequence[tuple[int, int, int, int]]]) -> int:
    """That any schedule takes: until something can be at a worker, and then for all its work.
    ``ways``: of each microbatch, one step after the other: the worker, ticks there, those of the
    gradient of the weights that it leaves for later, and ticks on the way to it."""
    first: dict[int, int] = {}
    work: dict[int, int] = {}
    for way in ways:
        now = 0
        for worker, ticks, later, delay in way:
            now += delay
            first[worker] = min(now, first.get(worker, now))
            work[worker] = work.get(worker, 0) + ticks + later
            now += ticks
    return max((first[worker] + work[worker] for worker in first), default=0)

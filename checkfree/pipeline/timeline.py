"""A schedule laid out in time. The simulator reads what the workers run, so they cannot drift."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from checkfree.core.ops import Address, Kind, Op, Route, Schedule
from checkfree.pipeline.order import in_turn, needs

Spans = dict[tuple[Address, Op], tuple[float, float]]
"""When each op of each worker begins and ends, in seconds."""


def timeline(
    schedule: Schedule,
    routes: Sequence[Route],
    seconds: Callable[[Address, Op], float],
    transfer: Callable[[Address, Address], float],
) -> Spans:
    """When each op begins and ends, if computing and sending take what you say.

    ``seconds(worker, op)``: how long the worker computes. ``transfer(sender, receiver)``: how long
    one activation or gradient travels between two workers; links are never full. ``R`` begins when
    all workers of its stage have come to it. Raises DeadlockError if the schedule cannot run.
    """
    spans: Spans = {}
    ends: dict[Op, float] = {}
    free = dict.fromkeys(schedule, 0.0)
    for worker, op in in_turn(schedule, {m: len(route) - 1 for m, route in enumerate(routes)}):
        if op.kind is Kind.REDUCE:
            continue
        start = free[worker]
        for need in needs(op, routes):
            sender = routes[need.microbatch][need.hop]
            travel = transfer(sender, worker) if sender != worker else 0.0
            start = max(start, ends[need] + travel)
        free[worker] = start + seconds(worker, op)
        spans[worker, op] = start, free[worker]
        if op.kind is not Kind.REDUNDANT:
            ends[op] = free[worker]
    return spans | _reductions(schedule, free, seconds)


def makespan(
    schedule: Schedule,
    routes: Sequence[Route],
    seconds: Callable[[Address, Op], float],
    transfer: Callable[[Address, Address], float],
) -> float:
    """Seconds until the last op ends; see :func:`timeline`."""
    spans = timeline(schedule, routes, seconds, transfer)
    return max((end for _, end in spans.values()), default=0.0)


def _reductions(
    schedule: Schedule, free: dict[Address, float], seconds: Callable[[Address, Op], float]
) -> Spans:
    reduce = Op(Kind.REDUCE)
    stages: defaultdict[int, list[Address]] = defaultdict(list)
    for worker, ops in schedule.items():
        if reduce in ops[-1:]:
            stages[worker.stage].append(worker)
    spans: Spans = {}
    for workers in stages.values():
        start = max(free[worker] for worker in workers)
        for worker in workers:
            spans[worker, reduce] = start, start + seconds(worker, reduce)
    return spans

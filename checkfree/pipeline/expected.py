"""What papers say of a schedule: its bubble and its stash, on a plain chain of stages.

The *bubble* of a stage is the time that it idles between the beginning of its first op and the end
of its last one; that of a schedule is the largest of any body stage. Formulas are for chains whose
ends cost nothing, with as many microbatches as fill them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from checkfree.core.ops import Kind
from checkfree.pipeline.make import Costs
from checkfree.pipeline.patterns import V_SCHEDULES
from checkfree.pipeline.timeline import Spans


@dataclass(frozen=True)
class Expected:
    """Of p body stages, for seconds F of a stage's forward, B and W of both halves of its backward.

    ``bubble``: (p, F, B, W) -> seconds, as ``formula`` has it, given so ``many`` microbatches of a
    seat (of p). ``stash``: (hops of a route to each chunk and back: p + 2) -> the most microbatches
    that a seat holds; None: all of them. Where routes cross, ``crossing`` more. Each chunk of a
    seat counts as a microbatch in that.
    """

    formula: str
    seconds: Callable[[int, float, float, float], float]
    many: Callable[[int], int]
    stash: Callable[[int], int] | None
    crossing: int = 0

    def bubble(self, stages: int, costs: Costs) -> float:
        """In the units of the costs."""
        weights = costs.weights * costs.backward
        return self.seconds(stages, costs.forward, costs.backward - weights, weights)


def _v_expected(
    name: str, formula: str, seconds: Callable[[int, float, float, float], float]
) -> Expected:
    def stash(hops: int) -> int:
        return 2 * V_SCHEDULES[name].most(hops - 2)

    return Expected(formula, seconds, lambda p: 2 * p, stash, 3)


EXPECTED: Mapping[str, Expected] = {
    "gpipe": Expected(
        "(p-1)(F + B + W)", lambda p, f, b, w: (p - 1) * (f + b + w), lambda p: 1, None
    ),
    "1f1b": Expected(
        "(p-1)(F + B + W)", lambda p, f, b, w: (p - 1) * (f + b + w), lambda p: 1, lambda k: k, 3
    ),
    "zb_h1": Expected(
        "(p-1)(F + B - W)",
        lambda p, f, b, w: (p - 1) * (f + b - w),
        lambda p: p + 1,
        lambda k: k,
        3,
    ),
    "zb_h2": Expected(
        "(p-1)(F + B - 2W)",
        lambda p, f, b, w: (p - 1) * (f + b - 2 * w),
        lambda p: 2 * p + 1,
        lambda k: 2 * k - 1,
        3,
    ),
    "interleaved": Expected(
        "(p-1)(F + B + W)/2",
        lambda p, f, b, w: (p - 1) * (f + b + w) / 2,
        lambda p: p,
        lambda k: max(3 * (k - 2), k),
        3,
    ),
    "zbv": _v_expected("zbv", "0 if F = B = W", lambda p, f, b, w: 0.0),
    "v_half": _v_expected("v_half", "p(F + B + W)/2", lambda p, f, b, w: p * (f + b + w) / 2),
    "v_min": _v_expected("v_min", "2p(F + B + W)/3", lambda p, f, b, w: 2 * p * (f + b + w) / 3),
}
"""GPipe (arXiv 1811.06965), 1F1B (arXiv 2006.09503), ZB-H1 and ZB-H2 (arXiv 2401.10241, table 2),
interleaved 1F1B (arXiv 2104.04473, section 2.2), V schedules (arXiv 2405.15362, table 1, which has
bubbles of V-Half and V-Min about, for F = B = W).
Papers count the stages that a microbatch still has before it; stage 0 takes the loss, so here it is
one more, and stage 0 itself holds a microbatch at both ends."""


def bubble(spans: Spans) -> float:
    """The most that a body stage idles between its first op and its last, in seconds."""
    first: dict[object, float] = {}
    last: dict[object, float] = {}
    busy: dict[object, float] = {}
    for (worker, op), (start, end) in spans.items():
        if worker.stage == 0 or op.kind is Kind.REDUCE:
            continue
        first[worker] = min(start, first.get(worker, start))
        last[worker] = max(end, last.get(worker, end))
        busy[worker] = busy.get(worker, 0.0) + end - start
    idle = (last[worker] - first[worker] - busy[worker] for worker in first)
    return max(0.0, *idle)  # roundings may make it less

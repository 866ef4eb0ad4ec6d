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
from checkfree.pipeline.timeline import Spans


@dataclass(frozen=True)
class Expected:
    """``weights``: (p - 1) (F + B + weights * W) is the bubble of p body stages, for seconds F of a
    forward, B and W of both halves of a backward, given so ``many`` microbatches of a seat (of p).
    ``stash``: the most microbatches that a seat holds, of the hops of a route; None: all of them.
    Where routes cross, ``crossing`` more."""

    weights: int
    many: Callable[[int], int]
    stash: Callable[[int], int] | None
    crossing: int = 0

    def bubble(self, stages: int, costs: Costs) -> float:
        """In the units of the costs."""
        by_weights = costs.weights * costs.backward
        others = costs.forward + costs.backward - by_weights
        return (stages - 1) * (others + self.weights * by_weights)

    @property
    def formula(self) -> str:
        """Of the bubble, as text."""
        sign = {1: "+ W", -1: "- W", -2: "- 2W"}[self.weights]
        return f"(p-1)(F + B {sign})"


EXPECTED: Mapping[str, Expected] = {
    "gpipe": Expected(1, lambda stages: 1, None),
    "1f1b": Expected(1, lambda stages: 1, lambda hops: hops, 3),
    "zb_h1": Expected(-1, lambda stages: stages + 1, lambda hops: hops, 3),
    "zb_h2": Expected(-2, lambda stages: 2 * stages + 1, lambda hops: 2 * hops - 1, 3),
}
"""GPipe (arXiv 1811.06965), 1F1B (arXiv 2006.09503), ZB-H1 and ZB-H2 (arXiv 2401.10241, table 2).
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

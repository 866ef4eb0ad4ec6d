"""How many layers each body stage has, so that the busiest one has the least to do."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


def balanced(costs: Sequence[float], stages: int) -> tuple[int, ...]:
    """Layers of each of ``stages``, 1 or more, in their order, for layers of these ``costs``: the
    largest sum of a stage is as small as can be, and of all such cuts the one whose sums are most
    alike. Exact, by dynamic programming. Raises ValueError for more stages than layers."""
    count = len(costs)
    if not 1 <= stages <= count:
        raise ValueError(f"{count} layers can't be cut into {stages} stages: 1 … {count} can")
    sums = [0.0, *accumulate(costs)]
    # Of the first k layers in so many stages: the largest sum, their squares, the layers of each.
    best: dict[int, tuple[float, float, tuple[int, ...]]]
    best = {k: (sums[k], sums[k] ** 2, (k,)) for k in range(1, count + 1)}
    for used in range(2, stages + 1):
        best = {
            k: min(
                (
                    max(largest, sums[k] - sums[before]),
                    squares + (sums[k] - sums[before]) ** 2,
                    (*layers, k - before),
                )
                for before in range(used - 1, k)
                for largest, squares, layers in (best[before],)
            )
            for k in range(used, count + 1)
        }
    return best[count][2]

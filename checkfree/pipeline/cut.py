"""How many layers each body stage has, so that the busiest one has the least to do."""

from __future__ import annotations

import math
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
    largest = sums[:]  # of the first k layers in so many stages, at least
    for used in range(2, stages + 1):
        largest = [
            min(
                (max(largest[before], sums[k] - sums[before]) for before in range(used - 1, k)),
                default=math.inf,
            )
            for k in range(count + 1)
        ]

    def fits(before: int, k: int) -> bool:
        return before < k and sums[k] - sums[before] <= largest[count]

    # Of cuts within that: the least squares of their sums, and the layers of each stage.
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for _ in range(stages):
        best = {
            k: min(
                (squares + (sums[k] - sums[before]) ** 2, (*layers, k - before))
                for before, (squares, layers) in best.items()
                if fits(before, k)
            )
            for k in range(1, count + 1)
            if any(fits(before, k) for before in best)
        }
    return best[count][1]

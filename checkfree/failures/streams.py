"""The two random streams that every sampler draws from: chances per tick, and arrivals in time.

Each stage has its own stream and tick t uses its t-th number, so that neither the length of a
trace nor the other stages change what happens to a stage (semantics 4). For the same reason the
failures at a lower probability are among those at a higher one. ``random.Random.random`` is
used because Python promises its numbers for a seed across versions.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from checkfree.core.units import derive


def struck(seed: int, place: tuple[int, ...], probability: float, ticks: int) -> list[int]:
    """The ticks below ``ticks`` at which ``place`` (a stage, or a seat) is struck, ascending."""
    draw = random.Random(derive(seed, "failures", *place)).random
    return [tick for tick in range(ticks) if draw() < probability]


def arrivals(seed: int, stage: int, rate_per_hour: float) -> Iterator[float]:
    """Seconds since the start at which ``stage`` fails, ascending, without end (semantics 9).

    ``rate_per_hour`` is λ of a Poisson process (``poisson_rate_per_hour`` of a probability); at 0
    nothing comes. A higher rate plays the same events faster.
    """
    if rate_per_hour <= 0:
        return
    draw = random.Random(derive(seed, "arrivals", stage)).random
    hours = 0.0
    while True:
        hours -= math.log1p(-draw()) / rate_per_hour
        yield hours * 3600.0

"""Means over seeds, and how far they may be off."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, stdev

_T = (12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157)
_Z = 1.959964


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` values with the half width of its 95 % t-interval."""

    mean: float
    half: float
    """NaN for one value: a single run has no interval."""
    deviation: float
    """Standard deviation of the values (n − 1); NaN for one value."""
    n: int

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half


def estimate(values: Iterable[float | None]) -> Estimate | None:
    """Of the finite ``values``; None if there is none."""
    found = [float(v) for v in values if v is not None and math.isfinite(v)]
    if not found:
        return None
    if len(found) == 1:
        return Estimate(found[0], math.nan, math.nan, 1)
    deviation = stdev(found)
    half = t_quantile(len(found) - 1) * deviation / math.sqrt(len(found))
    return Estimate(fmean(found), half, deviation, len(found))


def t_quantile(freedom: int) -> float:
    """The 0.975 quantile of Student's t, to 0.001: that of a two-sided interval of 95 %. Raises
    ValueError below 1 degree of ``freedom``."""
    if freedom < 1:
        raise ValueError(f"{freedom} degrees of freedom: expected at least 1")
    if freedom <= len(_T):
        return _T[freedom - 1]
    z, n = _Z, float(freedom)
    # Cornish and Fisher's expansion in 1/n.
    first = (z**3 + z) / (4 * n)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    return z + first + second + third


def reading_noise(losses: Sequence[Sequence[float]]) -> float:
    """How much one reading jitters: the root mean square of the changes between successive
    readings about their mean, over √2, in the second half of each of ``losses``.

    Differences take the trend out, and each holds the noise of two readings. NaN if no run has
    three readings there.
    """
    squares: list[float] = []
    freedom = 0
    for run in losses:
        finite = [loss for loss in run if math.isfinite(loss)]
        steps = [b - a for a, b in pairwise(finite[len(finite) // 2 :])]
        if len(steps) >= 2:
            middle = fmean(steps)
            squares += [(step - middle) ** 2 for step in steps]
            freedom += len(steps) - 1
    return math.sqrt(sum(squares) / freedom / 2) if freedom else math.nan

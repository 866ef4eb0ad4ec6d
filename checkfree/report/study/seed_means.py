"""Curves as plain numbers: means over seeds with their intervals, on any axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from checkfree.report.loss_marks import smooth
from checkfree.report.study.groups import Book, Group
from checkfree.report.study.interval import t_quantile
from checkfree.report.study.run_series import Floats, RunSeries, Track
from checkfree.report.study.summary import gap_lines

POINTS = 600
"""A line of more points than the page has pixels costs its reader and shows nothing more."""
_GRID = 400


@dataclass(frozen=True)
class Curve:
    """A mean over ``n`` seeds; ``half`` is that of its 95 % interval, NaN for one seed."""

    x: Floats
    y: Floats
    half: Floats
    n: int


def track_of(run: RunSeries, kind: str) -> Track:
    """``kind``: ``validation`` or ``training``."""
    return run.validation if kind == "validation" else run.training


def seed_line(run: RunSeries, kind: str, axis: str) -> tuple[Floats, Floats] | None:
    """One run's curve, training smoothed; None if it knows nothing of this axis."""
    found = track_of(run, kind).on(axis)
    if found is None:
        return None
    x, y = found
    if kind == "training":
        y = np.array(smooth(y.tolist(), smoothing(len(y))))
    return x, y


def smoothing(count: int) -> int:
    """Over how many neighbours a training loss of ``count`` points is averaged."""
    return max(5, count // 40)


def mean_curve(group: Group, kind: str, axis: str) -> Curve | None:
    """Over all seeds that know this axis, up to where the first of them ended; None: at once.

    Against iterations seeds meet at their points; on clocks, at points between theirs.
    """
    lines = [seed_line(run, kind, axis) for run in group.runs]
    found = [line for line in lines if line is not None]
    if not found or not all(len(x) for x, _ in found):
        return None
    if len(found) == 1:
        x, y = thin(*found[0])
        return Curve(x, y, np.full(len(x), np.nan), 1)
    x, losses = _met(found) if axis == "iterations" else _between(found)
    return _curve(x, losses) if len(x) else None


def _met(lines: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    x = lines[0][0]
    for other, _ in lines[1:]:
        x = np.intersect1d(x, other)
    return x, np.stack([y[np.searchsorted(own, x)] for own, y in lines])


def _between(lines: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    low, high = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
    every = np.unique(np.concatenate([x for x, _ in lines]))
    x = every[(every >= low) & (every <= high)]
    if len(x) > _GRID:
        x = np.linspace(low, high, _GRID)
    return x, np.stack([np.interp(x, own, y) for own, y in lines])


def _curve(x: Floats, losses: Floats) -> Curve:
    n = len(losses)
    half = np.full(len(x), np.nan)
    if n > 1:
        half = t_quantile(n - 1) * losses.std(axis=0, ddof=1) / np.sqrt(n)
    keep = kept(len(x))
    return Curve(x[keep], losses.mean(axis=0)[keep], half[keep], n)


def gap_curve(book: Book, group: Group) -> Curve | None:
    """Paired differences to the reference over iterations; None where nothing can be paired."""
    gaps = gap_lines(book, group)
    if not gaps or not gaps[0]:
        return None
    x = np.array(list(gaps[0]), dtype=np.float64)
    return _curve(x, np.array([list(gap.values()) for gap in gaps]))


def thin(x: Floats, y: Floats, most: int = POINTS) -> tuple[Floats, Floats]:
    """At most ``most`` points, first and last among them."""
    keep = kept(len(x), most)
    return x[keep], y[keep]


def kept(count: int, most: int = POINTS) -> Floats:
    """Which of ``count`` points to draw."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))

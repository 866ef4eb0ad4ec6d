"""How often to put a state aside: closed forms, of losses that come at any time at a constant rate.

An interval that is short costs what is put aside, a long one what is done again after a loss::

    checkpoint   cost per checkpoint          after a loss, everybody trains half an interval again
    wave         wait per wave, often none    after a loss, one stage runs that much again

Seconds throughout; ``losses`` is a rate, per second and of all stages together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class MeasuredTimes:
    """What the closed forms know of a strategy on a fleet, in seconds. ``iteration``: one that is
    not disturbed. ``aside``: that a checkpoint, or a wave, holds training up. ``fixed``: of a loss
    however old the copy is, the iteration that it breaks off left out. ``again``: of each iteration
    since the copy then. ``lag``: iterations until a copy counts."""

    iteration: float
    aside: float
    fixed: float
    again: float
    lag: int = 0


def young(aside: float, losses: float) -> float:
    """Seconds between two checkpoints: √(2·aside / losses), of J. W. Young (1974), for losses that
    are rare."""
    return math.sqrt(2 * aside / losses)


def daly(aside: float, losses: float) -> float:
    """The same with more terms of the series, of J. T. Daly (2006); where a checkpoint takes more
    than twice the time between losses, that time."""
    mean = 1 / losses
    if aside >= 2 * mean:
        return mean
    part = math.sqrt(aside / (2 * mean))
    return math.sqrt(2 * aside * mean) * (1 + part / 3 + part * part / 9) - aside


def between_waves(found: MeasuredTimes, losses: float) -> float:
    """Iterations between two waves, as ``young``; those that one needs to count are the least."""
    half = found.iteration * losses * found.again / 2
    return max(found.lag + 1.0, math.sqrt(found.aside / half) if half else math.inf)


def seconds_with_checkpoints(found: MeasuredTimes, interval: float, losses: float) -> float:
    """Expected of an iteration, with a checkpoint every so many; losses during a rollback included
    (Daly). Infinite if that is more than can be told."""
    segment = interval * found.iteration + found.aside
    if losses * (segment + found.fixed) > 700:  # what exp takes
        return math.inf
    return math.exp(losses * found.fixed) * math.expm1(losses * segment) / losses / interval


def seconds_with_waves(found: MeasuredTimes, interval: float, losses: float) -> float:
    """Expected of an iteration, with a wave every so many. A loss breaks an iteration off in its
    midst, and its stage runs those since the wave that counts: ``lag`` and half an interval."""
    since = found.lag + (interval - 1) / 2
    each = found.iteration / 2 + found.fixed + since * found.again
    share = losses * each
    return (found.iteration + found.aside / interval) / (1 - share) if share < 1 else math.inf


def seconds_with_restarts(iteration: float, iterations: int, ends: float) -> float:
    """Expected of a run that begins anew whenever a loss ends it; ``ends``: a rate, per
    iteration."""
    if ends * iterations > 700:
        return math.inf
    return iteration * (math.expm1(ends * iterations) / ends if ends else iterations)

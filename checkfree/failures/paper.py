"""The published failure probabilities, per stage and iteration.

From the code that goes with arXiv 2506.15461 (v2). The names give the model and the chance that
a stage is lost within an hour. The constants do not follow from the formula at the published
91.3 s an iteration, which gives .0013, .0027 and .0044 for 5, 10 and 16 %; they imply 63, 68 and
83 s (500M), 21 s (124M) and 137 to 166 s (1.5B). Both are kept: the formula in ``rates``, the
constants here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

SECONDS_PER_ITERATION = 91.3
"""Published seconds per iteration of the 500M model, over seven sites."""

PER_ITERATION: Mapping[str, float] = MappingProxyType(
    {
        "124m/10%": 0.0006,
        "124m/16%": 0.001,
        "500m/5%": 0.0009,
        "500m/10%": 0.002,
        "500m/16%": 0.004,
        "500m/33%": 0.01,
        "1.5b/10%": 0.004,
        "1.5b/16%": 0.008,
    }
)
"""Probability of losing a stage, per stage and iteration, by model and hourly rate."""

PREFIX = "paper/"


def presets() -> tuple[str, ...]:
    """What ``failures.scenario`` may be called: ``paper/500m/10``, …"""
    return tuple(PREFIX + name.rstrip("%") for name in PER_ITERATION)


def probability_of(scenario: str) -> float | None:
    """The constant of ``paper/500m/10`` (or ``…/10%``); None: not a preset's name."""
    if not scenario.startswith(PREFIX):
        return None
    name = scenario.removeprefix(PREFIX).lower().removesuffix("%")
    return PER_ITERATION.get(f"{name}%")


def rate_of(name: str) -> float:
    """The hourly rate in a constant's name: ``rate_of("500m/10%") == 0.1``."""
    return int(name.split("/")[1].rstrip("%")) / 100

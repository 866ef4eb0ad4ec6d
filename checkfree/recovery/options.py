"""The section of the configuration that each strategy reads, and what its values can be. No torch:
a configuration is checked before any is here.

A strategy sees its own section and nothing else. Those of ours stand flat in ``RecoveryConfig``, as
records have them, and what they mean is told there; a new one's fields may stand here alone.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from checkfree.core.config import RecoveryConfig
from checkfree.core.errors import BadInput, one_of
from checkfree.core.formats import BF16, FP32, INT4_ROWS, INT8_ROWS, SIGNS
from checkfree.core.typed import written
from checkfree.pipeline.routes import check_share

SHADOW_FORMATS = {
    "int8": INT8_ROWS,
    "int4": INT4_ROWS,
    "signs": SIGNS,
    "bf16": BF16,
    "fp32": FP32,
}
"""``recovery.shadow_format``, and how that is written."""

AUTO = "auto"
"""The strategy; and of a key, that its value is found."""

_R = RecoveryConfig


@dataclass(frozen=True)
class NoOptions:
    """Of a strategy that has none."""


@dataclass(frozen=True)
class InexactOptions:
    """How a stage goes on that was not restored exactly."""

    optimizer: str = _R.optimizer
    lr_scale: float | None = _R.lr_scale
    lr_scale_half_life: float | None = _R.lr_scale_half_life


@dataclass(frozen=True)
class WeightedOptions(InexactOptions):
    """Of whatever averages neighbours by their gradient norms."""

    exponent: float = _R.exponent


@dataclass(frozen=True)
class CheckFreeOptions(WeightedOptions):
    """``checkfree``."""

    gradient: str = _R.gradient


@dataclass(frozen=True)
class CheckFreePlusOptions(CheckFreeOptions):
    """``checkfree_plus``."""

    share: float = _R.share
    partner: str = _R.partner


@dataclass(frozen=True)
class CheckpointOptions:
    """``checkpoint``."""

    interval: int = _R.interval


@dataclass(frozen=True)
class ShadowOptions(WeightedOptions):
    """``shadow``."""

    shadow_every: Any = _R.shadow_every
    shadow_format: str = _R.shadow_format
    shadow_budget: float = _R.shadow_budget
    shadow_least: int = _R.shadow_least
    shadow_ahead: float = _R.shadow_ahead


@dataclass(frozen=True)
class FitOptions(WeightedOptions):
    """``fit``."""

    fit_steps: int = _R.fit_steps
    fit_memory: int = _R.fit_memory
    fit_lr: float = _R.fit_lr


@dataclass(frozen=True)
class ReplayOptions:
    """``replay``, and ``auto`` unless ``log_memory`` is 0."""

    log_memory: Any = _R.log_memory
    log_path: str | None = _R.log_path
    wave_every: int | None = _R.wave_every
    wave_lag: int | None = _R.wave_lag
    wave_budget: float = _R.wave_budget
    copies: int = _R.copies
    tolerance: Any = _R.tolerance


@dataclass(frozen=True)
class AutoOptions(ShadowOptions, FitOptions, ReplayOptions):
    """``auto``: those of all its rungs."""

    share: float = _R.share
    swap: bool = _R.swap
    most_rollback: int = _R.most_rollback


MOST_LAG = 10_000
"""Iterations between two waves, or until one counts: nobody waits for the replay of more."""

MOST_AHEAD = 10.0
"""``recovery.shadow_ahead``: with any more, all restarts go as far as they may."""


def check_recovery(config: RecoveryConfig) -> None:
    """Raise BadInput, one line, for a value out of range."""
    one_of("recovery.gradient", config.gradient, ("before", "after"))
    one_of("recovery.optimizer", config.optimizer, ("fresh", "average"))
    one_of("recovery.partner", config.partner, ("copy", "average"))
    if config.exponent not in (1.0, 2.0):
        raise BadInput(f"recovery.exponent={config.exponent}: expected 1 or 2")
    check_share(config.share)
    one_of("recovery.shadow_format", config.shadow_format, tuple(SHADOW_FORMATS))
    _check_ladder(config)
    if config.interval < 1:
        raise BadInput(f"recovery.interval={config.interval}: expected at least 1 iteration")
    if config.lr_scale is not None and not 0.0 < config.lr_scale < float("inf"):
        raise BadInput(f"recovery.lr_scale={config.lr_scale}: expected a positive factor")
    _check_replay(config)
    half_life = config.lr_scale_half_life
    if half_life is not None and not half_life > 0:
        raise BadInput(f"recovery.lr_scale_half_life={half_life}: expected a positive number")


def _check_replay(config: RecoveryConfig) -> None:
    log, least = config.log_memory, 1 if config.name == "replay" else 0
    if log != AUTO and not (type(log) is int and least <= log <= sys.maxsize):
        off = "; 0: nothing is replayed" if least == 0 else ""
        raise BadInput(
            f"recovery.log_memory={written(log)}: expected auto, or bytes from {least} to "
            f"{sys.maxsize}{off}"
        )
    if config.log_path == "":
        raise BadInput(
            "recovery.log_path is empty: expected a folder on a local disk, as in /mnt/nvme, or "
            "null for memory"
        )
    if not 0 <= config.most_rollback <= MOST_LAG:
        raise BadInput(
            f"recovery.most_rollback={config.most_rollback}: expected iterations, 0 to {MOST_LAG}"
        )
    for key in ("wave_every", "wave_lag"):
        value = getattr(config, key)
        if value is not None and not 1 <= value <= MOST_LAG:
            raise BadInput(f"recovery.{key}={value}: expected iterations, 1 to {MOST_LAG}, or null")
    if not 0 < config.wave_budget < float("inf"):
        raise BadInput(
            f"recovery.wave_budget={config.wave_budget}: expected a share of the activations' and "
            "gradients' bytes above 0, as in 0.08"
        )
    if config.copies not in (1, 2):
        raise BadInput(f"recovery.copies={config.copies}: expected 1 or 2")
    tolerance = config.tolerance
    if tolerance != AUTO and not (type(tolerance) in (int, float) and 0 <= tolerance < 1):
        raise BadInput(
            f"recovery.tolerance={written(tolerance)}: expected auto, or a share from 0 (the same "
            "bits) to below 1, as in 1e-4"
        )


def _check_ladder(config: RecoveryConfig) -> None:
    every = config.shadow_every
    if every not in (None, AUTO) and (type(every) is not int or every < 1):
        raise BadInput(
            f"recovery.shadow_every={every}: expected auto or iterations, as in 50; null is "
            "what suits the format"
        )
    if not 0 < config.shadow_budget < float("inf"):
        raise BadInput(
            f"recovery.shadow_budget={config.shadow_budget}: expected a share of the activations' "
            "bytes above 0, as in 0.01"
        )
    if not 0 <= config.shadow_ahead <= MOST_AHEAD:
        raise BadInput(
            f"recovery.shadow_ahead={config.shadow_ahead}: expected 0 to {MOST_AHEAD:g} times the "
            "age of a shadow, as in 1.0"
        )
    if config.fit_steps < 1:
        raise BadInput(f"recovery.fit_steps={config.fit_steps}: expected at least 1 step")
    if config.fit_memory < 0:
        raise BadInput(f"recovery.fit_memory={config.fit_memory}: expected bytes, 0 or more")
    if not 0 < config.fit_lr < float("inf"):
        raise BadInput(f"recovery.fit_lr={config.fit_lr}: expected a positive number, as in 2e-3")

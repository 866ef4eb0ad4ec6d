"""What a configuration may say of recovery: the strategies' names, the options that each of them
reads, and the values that these can have. No torch: a configuration is checked before any is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from checkfree.config import RecoveryConfig
from checkfree.errors import BadInput, one_of
from checkfree.formats import BF16, FP32, INT4_ROWS, INT8_ROWS, SIGNS
from checkfree.routes import check_share

SHADOW_FORMATS = {
    "int8": INT8_ROWS,
    "int4": INT4_ROWS,
    "signs": SIGNS,
    "bf16": BF16,
    "fp32": FP32,
}
"""``recovery.shadow_format``, and how that is written."""

AUTO = "auto"

MOST_AHEAD = 10.0
"""``recovery.shadow_ahead``: with any more, all restarts go as far as they may."""

_INEXACT = frozenset({"optimizer", "lr_scale", "lr_scale_half_life"})
_WEIGHTED = _INEXACT | {"exponent"}
_PUSHING = frozenset(
    {"shadow_every", "shadow_format", "shadow_budget", "shadow_least", "shadow_ahead"}
)
_FITTING = frozenset({"fit_steps", "fit_memory", "fit_lr"})

OPTIONS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "auto": _WEIGHTED | _PUSHING | _FITTING | {"share", "swap"},
        "shadow": _WEIGHTED | _PUSHING,
        "fit": _WEIGHTED | _FITTING,
        "none": frozenset(),
        "checkfree": _WEIGHTED | {"gradient"},
        "checkfree_plus": _WEIGHTED | {"gradient", "share", "partner"},
        "checkpoint": frozenset({"interval"}),
        "redundant": frozenset(),
        "random": _INEXACT,
        "zero": _INEXACT,
        "copy": _INEXACT,
        "uniform": _INEXACT,
    }
)
"""By the strategy's name: the keys of the section ``recovery`` that it reads."""


def pushes(config: RecoveryConfig) -> bool:
    """The strategy keeps shadows."""
    return "shadow_every" in OPTIONS[config.name]


def swaps(config: RecoveryConfig) -> bool:
    """The strategy has microbatches run the ends of the pipeline out of order."""
    return config.name == "checkfree_plus" or ("swap" in OPTIONS[config.name] and config.swap)


def check_recovery(config: RecoveryConfig) -> None:
    """Raise BadInput, one line, for a value out of range."""
    one_of("recovery.name", config.name, tuple(OPTIONS))
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
    half_life = config.lr_scale_half_life
    if half_life is not None and not half_life > 0:
        raise BadInput(f"recovery.lr_scale_half_life={half_life}: expected a positive number")


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

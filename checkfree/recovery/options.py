"""What the options of strategies can be. No torch: a configuration is checked before it is here."""

from __future__ import annotations

from checkfree.core.config import RecoveryConfig
from checkfree.core.errors import BadInput, one_of
from checkfree.core.formats import BF16, FP32, INT4_ROWS, INT8_ROWS, SIGNS
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

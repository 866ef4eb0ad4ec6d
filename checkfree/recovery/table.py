"""The strategies by name, and how a configuration becomes one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from checkfree.checks import one_of
from checkfree.config import RecoveryConfig
from checkfree.errors import BadInput
from checkfree.formats import BF16, FP32, INT4_ROWS, INT8_ROWS, SIGNS
from checkfree.recovery.ablations import Copy, Reinit, Uniform
from checkfree.recovery.auto import FITTED, PARTNER, Ladder, Rules
from checkfree.recovery.average import Inexact
from checkfree.recovery.checkfree import RULE as WEIGHTED
from checkfree.recovery.checkfree import CheckFree
from checkfree.recovery.checkfree_plus import CheckFreePlus
from checkfree.recovery.checkpoint import Checkpoint
from checkfree.recovery.fit import Fitting
from checkfree.recovery.interpolate import NEAREST
from checkfree.recovery.none import NoRecovery
from checkfree.recovery.redundant import Redundant
from checkfree.recovery.replica import ReplicaFirst
from checkfree.recovery.safety_net import SafetyNet
from checkfree.recovery.shadow import RULE as SHADOW
from checkfree.recovery.shadow import Pushing, usual
from checkfree.recovery.strategy import Strategy
from checkfree.routes import check_share

PAPER_LR_SCALE = 1.1

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


def _checkfree(config: RecoveryConfig) -> CheckFree:
    how = _inexact(config, PAPER_LR_SCALE)
    return CheckFree(how, config.exponent, after_clipping=config.gradient == "after")


def _checkfree_plus(config: RecoveryConfig) -> CheckFreePlus:
    how = _inexact(config, PAPER_LR_SCALE)
    return CheckFreePlus(_checkfree(config), how, config.share, config.partner)


def _inexact(config: RecoveryConfig, lr_scale: float) -> Inexact:
    return Inexact(config.optimizer, lr_scale if config.lr_scale is None else config.lr_scale)


def _rules(config: RecoveryConfig) -> Rules:
    return Rules(how=_inexact(config, 1.0), exponent=config.exponent)


def _pushing(config: RecoveryConfig) -> Pushing:
    how = SHADOW_FORMATS[config.shadow_format]
    every = usual(how) if config.shadow_every is None else config.shadow_every
    return Pushing(how, None if every == AUTO else int(every), config.shadow_least)


def _reach(config: RecoveryConfig) -> float:
    """Only changes say how a stage was moving."""
    return config.shadow_ahead if SHADOW_FORMATS[config.shadow_format] == SIGNS else 0.0


def _fitting(config: RecoveryConfig) -> Fitting:
    return Fitting(config.fit_steps, config.fit_memory)


def _shadow(config: RecoveryConfig) -> Ladder:
    rules = replace(_rules(config), pushing=_pushing(config), reach=_reach(config))
    return Ladder((SHADOW, WEIGHTED), rules)


def _fit(config: RecoveryConfig) -> Ladder:
    return Ladder((FITTED, NEAREST), replace(_rules(config), fitting=_fitting(config)))


def _auto(config: RecoveryConfig) -> Ladder:
    rules = replace(
        _rules(config),
        pushing=_pushing(config),
        reach=_reach(config),
        fitting=_fitting(config),
        checked=True,
        share=config.share if config.swap else None,
    )
    return Ladder((SHADOW, PARTNER, FITTED, NEAREST), rules)


STRATEGIES: dict[str, Callable[[RecoveryConfig], Strategy]] = {
    "auto": _auto,
    "shadow": _shadow,
    "fit": _fit,
    "none": lambda config: NoRecovery(),
    "checkfree": _checkfree,
    "checkfree_plus": _checkfree_plus,
    "checkpoint": lambda config: Checkpoint(config.interval),
    "redundant": lambda config: Redundant(),
    "random": lambda config: Reinit("random", _inexact(config, 1.0)),
    "zero": lambda config: Reinit("zero", _inexact(config, 1.0)),
    "copy": lambda config: Copy(_inexact(config, 1.0)),
    "uniform": lambda config: Uniform(_inexact(config, 1.0)),
}


def make_strategy(config: RecoveryConfig, checkpoint_every: int | None = None) -> Strategy:
    """The strategy of a configuration, with replicas first and the safety net, if any, last.

    Raises BadInput for values that no strategy can take.
    """
    check_recovery(config)
    strategy = STRATEGIES[config.name](config)
    if checkpoint_every is not None:
        strategy = SafetyNet(strategy, Checkpoint(checkpoint_every))
    return ReplicaFirst(strategy)


def check_recovery(config: RecoveryConfig) -> None:
    """Raise BadInput, one line, for a value out of range."""
    one_of("recovery.name", config.name, tuple(STRATEGIES))
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

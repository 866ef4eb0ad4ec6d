"""The strategies by name, and how a configuration becomes one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from checkfree.config import RecoveryConfig
from checkfree.formats import SIGNS
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
from checkfree.recovery.options import AUTO, SHADOW_FORMATS
from checkfree.recovery.redundant import Redundant
from checkfree.recovery.replica import ReplicaFirst
from checkfree.recovery.safety_net import SafetyNet
from checkfree.recovery.shadow import RULE as SHADOW
from checkfree.recovery.shadow import Pushing, usual
from checkfree.recovery.strategy import Strategy

PAPER_LR_SCALE = 1.1


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
    """The strategy of a configuration, with replicas first and the safety net, if any, last."""
    strategy = STRATEGIES[config.name](config)
    if checkpoint_every is not None:
        strategy = SafetyNet(strategy, Checkpoint(checkpoint_every))
    return ReplicaFirst(strategy)

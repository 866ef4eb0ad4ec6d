"""The strategies by name: what a configuration may say of each, what others have to know of it
before it is there, and where it is made. No torch: a configuration is checked before any is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

from checkfree.config import RecoveryConfig

if TYPE_CHECKING:  # a strategy knows of tensors
    from checkfree.recovery.strategy import Strategy

_INEXACT = frozenset({"optimizer", "lr_scale", "lr_scale_half_life"})
_WEIGHTED = _INEXACT | {"exponent"}
_PUSHING = frozenset(
    {"shadow_every", "shadow_format", "shadow_budget", "shadow_least", "shadow_ahead"}
)
_FITTING = frozenset({"fit_steps", "fit_memory", "fit_lr"})


@dataclass(frozen=True)
class StrategySpec:
    """A strategy, as all but itself know it.

    ``made_by`` is a function of a RecoveryConfig, as ``module:function``; ``options`` are the keys
    of the section ``recovery`` that it reads, beside the name. ``exact``: whatever it repairs is
    what was lost, so no loss of the run shows it. ``mirrors``: each seat also holds another stage,
    whole. ``reinitialises``: a lost stage starts anew, so modules have to be able to.
    ``swaps_always``: microbatches run the ends of the pipeline out of order, whatever is
    configured.
    """

    made_by: str
    options: frozenset[str] = frozenset()
    exact: bool = False
    mirrors: bool = False
    reinitialises: bool = False
    swaps_always: bool = False

    @property
    def module(self) -> str:
        """Where it is written."""
        return self.made_by.partition(":")[0]

    @property
    def pushes(self) -> bool:
        """It keeps shadows."""
        return "shadow_every" in self.options

    def swaps(self, config: RecoveryConfig) -> bool:
        """Microbatches run the ends of the pipeline out of order."""
        return self.swaps_always or ("swap" in self.options and config.swap)

    def make(self, config: RecoveryConfig) -> Strategy:
        """The strategy of a configuration."""
        module, _, function = self.made_by.partition(":")
        make: Callable[[RecoveryConfig], Strategy] = getattr(import_module(module), function)
        return make(config)


_RULES = "checkfree.recovery."
STRATEGIES: Mapping[str, StrategySpec] = MappingProxyType(
    {
        "auto": StrategySpec(
            f"{_RULES}auto:auto", _WEIGHTED | _PUSHING | _FITTING | {"share", "swap"}
        ),
        "shadow": StrategySpec(f"{_RULES}auto:shadow", _WEIGHTED | _PUSHING),
        "fit": StrategySpec(f"{_RULES}auto:fit", _WEIGHTED | _FITTING),
        "none": StrategySpec(f"{_RULES}none:from_config"),
        "checkfree": StrategySpec(f"{_RULES}checkfree:from_config", _WEIGHTED | {"gradient"}),
        "checkfree_plus": StrategySpec(
            f"{_RULES}checkfree_plus:from_config",
            _WEIGHTED | {"gradient", "share", "partner"},
            swaps_always=True,
        ),
        "checkpoint": StrategySpec(f"{_RULES}checkpoint:from_config", frozenset({"interval"})),
        "redundant": StrategySpec(f"{_RULES}redundant:from_config", exact=True, mirrors=True),
        "random": StrategySpec(f"{_RULES}ablations:random", _INEXACT, reinitialises=True),
        "zero": StrategySpec(f"{_RULES}ablations:zero", _INEXACT, reinitialises=True),
        "copy": StrategySpec(f"{_RULES}ablations:copy", _INEXACT),
        "uniform": StrategySpec(f"{_RULES}ablations:uniform", _INEXACT),
    }
)

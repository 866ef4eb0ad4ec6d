"""The strategies by name: what a configuration may say of each, what others have to know of it
before it is there, and where it is made. No torch: a configuration is checked before any is here.

One from outside of checkfree is a subclass of Strategy or a StrategySpec; see ``plugins``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from checkfree.core.config import RecoveryConfig
from checkfree.core.errors import BadInput
from checkfree.core.typed import as_config
from checkfree.plugins import chosen, code_of, imported, written_at
from checkfree.recovery.options import (
    AutoOptions,
    CheckFreeOptions,
    CheckFreePlusOptions,
    CheckpointOptions,
    FitOptions,
    InexactOptions,
    NoOptions,
    ReplayOptions,
    ShadowOptions,
)

if TYPE_CHECKING:  # a strategy knows of tensors
    from checkfree.recovery.strategy import Strategy

_KEY = "recovery.name"


@dataclass(frozen=True)
class StrategySpec:
    """A strategy, as all but itself know it.

    ``made_by`` is called with its ``section``, as ``module:function``; or it is a subclass of
    Strategy that has none, or whose own fields are its section. ``exact``: whatever it repairs is
    what was lost, so no loss of the run shows it. ``mirrors``: each seat also holds another stage,
    whole. ``reinitialises``: a lost stage starts anew, so modules have to be able to.
    ``neighbours``: whatever it makes is of other stages, so body stages have to be alike.
    ``swaps_always``: microbatches run the ends of the pipeline out of order, whatever is
    configured.
    """

    made_by: str
    section: type = NoOptions
    exact: bool = False
    mirrors: bool = False
    reinitialises: bool = False
    neighbours: bool = False
    swaps_always: bool = False

    @property
    def module(self) -> str:
        """Where it is written."""
        return self.made_by.partition(":")[0]

    @property
    def options(self) -> frozenset[str]:
        """The keys of the configuration's section ``recovery`` that it reads, beside the name."""
        return frozenset(field.name for field in dataclasses.fields(self.section))

    @property
    def apart(self) -> frozenset[str]:
        """Those that are no fields of RecoveryConfig: it has them as ``options``."""
        return self.options - {field.name for field in dataclasses.fields(RecoveryConfig)}

    @property
    def pushes(self) -> bool:
        """It keeps shadows."""
        return "shadow_every" in self.options

    def swaps(self, config: RecoveryConfig) -> bool:
        """Microbatches run the ends of the pipeline out of order."""
        return self.swaps_always or ("swap" in self.options and config.swap)

    def make(self, config: RecoveryConfig) -> Strategy:
        """The strategy of a configuration."""
        make = imported(_KEY, self.made_by)
        if isinstance(make, type) and self.section is NoOptions:
            own: Strategy = _with_options(make, config)
            return own
        made: Strategy = make(_with_options(self.section, config))
        return made


_RULES = "checkfree.recovery."
STRATEGIES: Mapping[str, StrategySpec] = MappingProxyType(
    {
        "auto": StrategySpec(f"{_RULES}auto:auto", AutoOptions),
        "shadow": StrategySpec(f"{_RULES}auto:shadow", ShadowOptions),
        "fit": StrategySpec(f"{_RULES}auto:fit", FitOptions, neighbours=True),
        "none": StrategySpec(f"{_RULES}none:NoRecovery"),
        "checkfree": StrategySpec(f"{_RULES}checkfree:made", CheckFreeOptions, neighbours=True),
        "checkfree_plus": StrategySpec(
            f"{_RULES}checkfree_plus:made", CheckFreePlusOptions, neighbours=True, swaps_always=True
        ),
        "checkpoint": StrategySpec(f"{_RULES}checkpoint:Checkpoint", CheckpointOptions),
        "replay": StrategySpec(f"{_RULES}replay.rule:replay", ReplayOptions, exact=True),
        "redundant": StrategySpec(f"{_RULES}redundant:Redundant", exact=True, mirrors=True),
        "random": StrategySpec(f"{_RULES}ablations:random", InexactOptions, reinitialises=True),
        "zero": StrategySpec(f"{_RULES}ablations:zero", InexactOptions, reinitialises=True),
        "copy": StrategySpec(f"{_RULES}ablations:copy", InexactOptions, neighbours=True),
        "uniform": StrategySpec(f"{_RULES}ablations:uniform", InexactOptions, neighbours=True),
    }
)


def permit(config: RecoveryConfig, allow: Collection[str] = ()) -> RecoveryConfig:
    """With the code of a strategy from outside, if it is installed or its top package is among
    those that are allowed; any other as it is. Raises BadInput if that can't be imported, is no
    strategy, or has no such options."""
    found = None if config.name in STRATEGIES else code_of(_KEY, config.name, allow)
    if found is None:
        return config
    if isinstance(found, StrategySpec):
        return replace(config, code=found)
    if not isinstance(found, type) or not _is_strategy(found):
        raise BadInput(f"recovery.name={config.name}: that is no subclass of checkfree's Strategy")
    _with_options(found, config)
    return replace(config, code=StrategySpec(written_at(_KEY, config.name) or ""))


def spec_of(config: RecoveryConfig) -> StrategySpec:
    """Raises BadInput for a strategy that nobody has permitted, or that there is not."""
    code = config.code if isinstance(config.code, StrategySpec) else None
    return chosen(_KEY, config.name, STRATEGIES, code)


def _is_strategy(found: type) -> bool:
    from checkfree.recovery.strategy import Strategy

    return issubclass(found, Strategy)


def _with_options(kind: type, config: RecoveryConfig) -> Any:
    """A strategy that is a dataclass has its fields for options. Raises BadInput."""
    fields = [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    ours = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name in fields}
    given = {key: value for key, value in ours.items() if value != getattr(RecoveryConfig, key)}
    given |= config.options or {}
    for key in given:
        if key not in fields:
            named = f"its options are {', '.join(fields)}" if fields else "it has no options"
            raise BadInput(f"unknown key recovery.{key}: {config.name} was chosen, {named}")
    return as_config(given, kind, "recovery.") if fields else kind()


def replays(recovery: RecoveryConfig) -> bool:
    """Logs and copies are kept, so that lost stages can be replayed."""
    return "wave_lag" in spec_of(recovery).options and recovery.log_memory != 0

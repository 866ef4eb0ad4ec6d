"""The strategies by name: what a configuration may say of each, what others have to know of it
before it is there, and where it is made. No torch: a configuration is checked before any is here.

A strategy from outside of checkfree is named by the entry point of an installed package (group
``checkfree.strategies``), or as ``module:Class``. Installed code may run by being installed. Of any
other module a configuration alone says nothing that is acted on, for it may be a stranger's: who
runs it names the package (``permit``), and the permission travels with the configuration.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from checkfree.config import RecoveryConfig
from checkfree.errors import BadInput
from checkfree.typed import as_config

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
        make = _imported(self.made_by)
        if isinstance(make, type):
            own: Strategy = _with_options(make, config)
            return own
        made: Callable[[RecoveryConfig], Strategy] = make
        return made(config)


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

GROUP = "checkfree.strategies"
"""The entry points by which installed packages offer strategies."""

OUTSIDE = "package "
"""Before the name of a top package from outside, where versions and releases tell of it."""

_DOTTED = re.compile(r"([A-Za-z_]\w*)((?:\.\w+)*):([A-Za-z_]\w*)")


def offers() -> list[str]:
    """Where the strategies of installed packages are."""
    return [point.value for point in metadata.entry_points(group=GROUP)]


def written_at(name: str) -> str | None:
    """Where a strategy from outside is, as ``module:Class``; None: nobody offers that name."""
    if _DOTTED.fullmatch(name):
        return name
    found = [point.value for point in metadata.entry_points(group=GROUP) if point.name == name]
    return found[0] if found and _DOTTED.fullmatch(found[0]) else None


def known(name: str) -> bool:
    """It is one of ours, or may be one from outside."""
    return name in STRATEGIES or written_at(name) is not None


def packages(words: Iterable[str]) -> frozenset[str]:
    """The top packages of all strategies that are written ``module:Class`` in these words."""
    return frozenset(match[1] for word in words for match in _DOTTED.finditer(word))


def permit(config: RecoveryConfig, allow: Collection[str] = ()) -> RecoveryConfig:
    """With the code of a strategy from outside, if it is installed or its top package is among
    those that are allowed; any other as it is. Raises BadInput if that can't be imported, is no
    strategy, or has no such options."""
    where = None if config.name in STRATEGIES else written_at(config.name)
    if where is None or (where == config.name and not packages([where]) & {*allow}):
        return config
    found = _imported(where)
    if isinstance(found, StrategySpec):
        return replace(config, code=found)
    if not isinstance(found, type) or not _is_strategy(found):
        raise BadInput(f"recovery.name={config.name}: that is no subclass of checkfree's Strategy")
    _with_options(found, config)
    return replace(config, code=StrategySpec(where))


def spec_of(config: RecoveryConfig) -> StrategySpec:
    """Raises BadInput for a strategy that nobody has permitted, or that there is not."""
    if config.name in STRATEGIES:
        return STRATEGIES[config.name]
    if isinstance(config.code, StrategySpec):
        return config.code
    package = "".join(packages([config.name]))
    if not package:
        raise BadInput(f"recovery.name={config.name}: expected one of {', '.join(STRATEGIES)}")
    raise BadInput(
        f"recovery.name={config.name} is code from outside of checkfree, and no configuration may "
        f"run such by itself: if you trust it, --allow {package}"
    )


def _imported(where: str) -> Any:
    """Raises BadInput. What lies in the folder that we run in is found, as with python -m."""
    module, _, name = where.partition(":")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        return getattr(import_module(module), name)
    except AttributeError:
        raise BadInput(f"recovery.name={where}: {module} has no {name}") from None
    except ImportError as error:
        told = " ".join(str(error).split())[:200]
        raise BadInput(
            f"recovery.name={where} can't be imported ({told}): install it, or run where it lies"
        ) from None


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


def origin(top: str) -> str:
    """Of a top package that is no part of checkfree: which distribution, if it is of any, and a
    digest of its files. It is not imported for that."""
    spec = find_spec(top)
    if spec is None or spec.origin is None:
        return "missing"
    path = Path(spec.origin)
    files = sorted(path.parent.rglob("*.py")) if spec.submodule_search_locations else [path]
    found = hashlib.sha256()
    for file in files:
        found.update(f"{file.relative_to(path.parent)}\n".encode() + file.read_bytes() + b"\0")
    of = metadata.packages_distributions().get(top, ())
    return " ".join((*(f"{name} {metadata.version(name)}" for name in of), found.hexdigest()[:12]))

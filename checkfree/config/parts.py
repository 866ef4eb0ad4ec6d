"""The parts of a run that may come from outside of checkfree, and what each has to be."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.failures import is_ours
from checkfree.models.families import FAMILIES
from checkfree.pipeline import SCHEDULES
from checkfree.plugins import code_of, packages, written_at
from checkfree.recovery.options import AUTO
from checkfree.recovery.registry import STRATEGIES, permit
from checkfree.simulator.fleet import FLEETS, Fleet


@dataclass(frozen=True)
class Choice:
    """A part but for the strategy, which ``recovery.registry`` tells of. ``field``: of the
    configuration's section ("": of all of it) that names it; ``ours``: whether a name is of one
    that is not from outside; ``fits``: whether what was imported can be one, which is ``what``."""

    section: str
    field: str
    ours: Callable[[str], bool]
    fits: Callable[[Any], bool]
    what: str

    @property
    def key(self) -> str:
        """As a configuration has it."""
        return f"{self.section}.{self.field}" if self.section else self.field

    def of(self, config: Config) -> Any:
        """What is configured: the dataclass with the field, and with the code."""
        return getattr(config, self.section) if self.section else config

    def name(self, config: Config) -> str:
        """Of the part of that run."""
        return str(getattr(self.of(config), self.field))

    def permitted(self, config: Config, allow: Collection[str]) -> Config:
        """With its code, if it is from outside and may run. Raises BadInput."""
        name = self.name(config)
        code = None if self.ours(name) else code_of(self.key, name, allow)
        if code is None:
            return config
        if not self.fits(code):
            raise BadInput(f"{self.key}={name}: that is no {self.what}")
        made = replace(self.of(config), code=code)
        changed: Config = replace(config, **{self.section: made}) if self.section else made
        return changed


def _is_family(found: Any) -> bool:
    return all(callable(getattr(found, name, None)) for name in ("stage", "parameters_of"))


def _is_hub(name: str) -> bool:
    """Data of Hugging Face, which are named alike; what else is ours is seen when it is opened."""
    return name.startswith("hf:")


def _is_fleet(found: Any) -> bool:
    return isinstance(found, Fleet)


_SCHEDULES = *SCHEDULES, AUTO
_FAMILY = "family: it has no stage or no parameters_of"
CHOICES = (
    Choice(
        "",
        "schedule",
        _SCHEDULES.__contains__,
        callable,
        "function from routes to a schedule",
    ),
    Choice("failures", "scenario", is_ours, callable, "function from a Setting to failures"),
    Choice("data", "name", _is_hub, callable, "function from a DataConfig to a Corpus"),
    Choice("model", "family", FAMILIES.__contains__, _is_family, _FAMILY),
    Choice("fleet", "name", FLEETS.__contains__, _is_fleet, "Fleet"),
)


def permitted(config: Config, allow: Collection[str] = ()) -> Config:
    """With the code of all parts from outside that may run: those that are installed, and those of
    the top packages that are allowed. Raises BadInput for one that can't be what is named."""
    for choice in CHOICES:
        config = choice.permitted(config, allow)
    recovery = permit(config.recovery, allow)
    return config if recovery is config.recovery else replace(config, recovery=recovery)


def origins(config: Config) -> tuple[str, ...]:
    """Where all parts from outside are written, whether they may run or not."""
    found = (written_at(key, name) for key, name in _not_ours(config).items())
    return tuple(where for where in found if where is not None)


def named(config: Config) -> frozenset[str]:
    """The top packages from outside that a configuration names itself: whoever runs it says
    whether they may."""
    names = _not_ours(config).items()
    return packages(name for key, name in names if written_at(key, name) == name)


def running(config: Config) -> frozenset[str]:
    """Those among them that somebody has permitted."""
    code = {choice.key: choice.of(config).code for choice in CHOICES}
    code["recovery.name"] = config.recovery.code
    return packages(name for key, name in _not_ours(config).items() if code[key] is not None)


def _not_ours(config: Config) -> dict[str, str]:
    """By key the names of all parts that may be from outside."""
    found = {
        choice.key: choice.name(config)
        for choice in CHOICES
        if not choice.ours(choice.name(config))
    }
    if config.recovery.name not in STRATEGIES:
        found["recovery.name"] = config.recovery.name
    return found

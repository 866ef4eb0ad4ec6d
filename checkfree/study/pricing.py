"""What finished runs took on a fleet's clock, remembered so that a second report is quick."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from checkfree.config.load import as_recorded, build, plain
from checkfree.config.parts import origins, permitted
from checkfree.core.config import Config, FleetConfig
from checkfree.core.cost import Priced
from checkfree.core.errors import BadInput
from checkfree.plugins import origin, packages
from checkfree.runtime.folder import write_json
from checkfree.study.folders import Records

Pricer = Callable[[Config, Records, FleetConfig], Priced]

PRICED = "priced"
"""The folder below a comparison's where prices are remembered."""

FORMAT = 2
"""Of a remembered price. In those that tell none, ``replay`` is what is called ``rollback`` now."""

_UNPRICED = ("report", "study", "cli", "data")
"""Rooms whose source no price depends on."""


@dataclass(frozen=True)
class Prices:
    """Prices runs, each once. ``fleet``: keys of the fleet's configuration that are laid over each
    run's own; ``memory``: a folder; ``allow``: see :func:`checkfree.config.load.load`."""

    pricer: Pricer
    memory: Path
    fleet: Mapping[str, Any]
    allow: Collection[str] = ()

    def of(self, records: Records) -> Priced:
        """The price of a run. Raises BadInput for one that can't be priced."""
        config = permitted(build(as_recorded(records[0]["config"])), self.allow)
        asked = self._asked(config)
        path = self.memory / f"{_key(records, config, asked)}.json"
        try:
            return parse(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError):
            made = self.pricer(config, records, asked)
            write_json(path, {"format": FORMAT, **asdict(made)})
            return made

    def _asked(self, config: Config) -> FleetConfig:
        if "name" in self.fleet and self.fleet["name"] != config.fleet.name:
            asked = replace(FleetConfig(), **self.fleet)  # what was said of another fleet is moot
            return permitted(replace(config, fleet=asked), self.allow).fleet
        return replace(config.fleet, **self.fleet)


def parse(tree: Mapping[str, Any]) -> Priced:
    """A remembered price, read back from JSON. Raises KeyError, TypeError or ValueError for what is
    none, or of a format that is not known yet."""
    told = dict(tree)
    written = told.pop("format", 1)
    if written not in (1, FORMAT):
        raise ValueError(f"a price of format {written}")
    lists = {name: tuple(told[name]) for name in ("iterations", "ends", "recoveries")}
    if written == 1:
        for kind in ("seconds", "bytes"):
            told[kind] = {("rollback" if k == "replay" else k): n for k, n in told[kind].items()}
    return Priced(**{**told, **lists})


def _key(records: Sequence[Mapping[str, Any]], config: Config, fleet: FleetConfig) -> str:
    told = [
        (r["kind"], r.get("iteration"), r.get("tick"), r.get("seats"), r.get("status"))
        for r in records
    ]
    trained = {key: value for key, value in records[0]["config"].items() if key != "out"}
    content = [trained, told, plain(fleet), _measured(fleet), _source()]
    content += [origin(top) for top in sorted(packages(origins(replace(config, fleet=fleet))))]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _measured(fleet: FleetConfig) -> list[str]:
    """The content of the files that a fleet's seconds and lines are read from."""
    return [
        _content(key, path)
        for key, path in (("profile", fleet.profile), ("links", fleet.links))
        if path is not None
    ]


def _content(key: str, path: str) -> str:
    try:
        return hashlib.sha256(Path(os.path.expanduser(path)).read_bytes()).hexdigest()
    except OSError as error:
        raise BadInput(f"fleet.{key}={path}: {error.strerror}") from None


@cache
def _source() -> str:
    """A hash of the code that prices: another version may come to another price."""
    root = Path(__file__).parents[1]
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        if path.relative_to(root).parts[0] not in _UNPRICED:
            found.update(path.read_bytes())
    return found.hexdigest()

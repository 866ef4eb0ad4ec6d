"""Single run folders in a report: their names come from what their configurations differ in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from checkfree.config.load import flat
from checkfree.core.config import RecoveryConfig
from checkfree.core.errors import BadInput
from checkfree.core.typed import written
from checkfree.report.study.model import REFERENCE, Entry
from checkfree.session.job import recorded_config
from checkfree.study.folders import Records

_ASIDE = ("seed", "out", "devices", "failures.seed", "recovery.", "fleet.", "resume.")
"""Keys that give a run no other name: the report tells them elsewhere, or they change nothing."""

_RATES = ("failures.scenario", "failures.rate_per_hour", "failures.probability")


def single_entries(runs: Sequence[tuple[str, Records]]) -> Iterator[Entry]:
    """Of (folder, records) each. Raises BadInput for a folder without a configuration."""
    for folder, records in runs:
        if not records or records[0]["kind"] != "config":
            raise BadInput(f"{folder} does not begin with a run's configuration: leave it out")
    flats = [dict(flat(recorded_config(records[0]["config"]))) for _, records in runs]
    apart = _apart(flats)
    for (folder, records), config in zip(runs, flats, strict=True):
        yield Entry(name(config, apart), rate(config), int(config["seed"]), folder, records)


def _apart(flats: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that they differ in; of failures only those differ that have some, of rates only
    those off the clock."""
    found = set()
    for key in {key for one in flats for key in one if not key.startswith(_ASIDE)}:
        those = [
            one
            for one in flats
            if not (key.startswith("failures.") and _is_calm(one))
            and not (key in _RATES and rate(one) is not None)
        ]
        if len({written(one.get(key)) for one in those}) > 1:
            found.add(key)
    return sorted(found)


def _is_calm(config: Mapping[str, Any]) -> bool:
    return bool(config["failures.scenario"] == "none")


def name(config: Mapping[str, Any], apart: Sequence[str]) -> str:
    """The recovery's, with options that are not the usual ones, and ``apart``: keys that the runs
    of a report differ in."""
    calm = _is_calm(config)
    kind = str(config["recovery.name"])
    keys = [key for key in apart if key not in _RATES or rate(config) is None]
    told = {key: config.get(key) for key in keys if not (calm and key.startswith("failures."))}
    told = {key: value for key, value in told.items() if value is not None}
    if kind == "none" and calm:
        kind = REFERENCE
    else:
        told = {**dict(_unusual(config)), **({"failures": "none"} if calm else {}), **told}
    options = ", ".join(f"{key}={written(value)}" for key, value in told.items())
    return f"{kind}({options})" if options else kind


def _unusual(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(RecoveryConfig):
        value = config.get(f"recovery.{field.name}", field.default)
        if field.name != "name" and value != field.default:
            yield field.name, value


def rate(config: Mapping[str, Any]) -> float | None:
    """Failures per stage and hour of the clock, in percent; None: not on the clock."""
    if config["failures.scenario"] != "clock":
        return None
    return round(100 * float(config["failures.rate_per_hour"]), 6)

"""What was run, exactly: each configuration line by line, and where strategies differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from checkfree.core.records import of_kind, render_unread
from checkfree.core.text_counts import render_text
from checkfree.report.study.cells import NOTHING, CellLines, Head, Table, TableCell, TableRow
from checkfree.report.study.groups import Book, Group, config_of, rate_name
from checkfree.report.study.run_series import RunSeries

_OWN = ("seed", "out", "failures.seed")
"""Keys that tell seeds apart, not strategies."""


def flat(config: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """``{"recovery.interval": "25"}``: keys and values as the command line takes them."""
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{before}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            found[f"{before}{key}"] = str(text)
    return found


def differing(configs: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Keys whose values are not the same in all, those of single seeds left out."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return tuple(
        key
        for key in keys
        if key not in _OWN and len({config.get(key, NOTHING) for config in configs}) > 1
    )


@dataclass(frozen=True)
class Configuration:
    """Of a strategy, in full: lines, and whether others differ in them."""

    title: str
    lines: tuple[tuple[str, bool], ...]


def differences(book: Book) -> Table | None:
    """In what the configurations differ, if in anything."""
    told = _told(book)
    keys = differing([config for _, config in told])
    if not keys:
        return None
    rows = []
    for group, config in told:
        rate = "" if book.rates == (None,) or group.is_reference else rate_name(group.rate)
        odd = "failures.stages" if group.label in book.may_fail else None
        cells = (TableCell(config.get(key, NOTHING), bad=key == odd, text=True) for key in keys)
        rows.append(TableRow(Head(group.label, (rate,)), tuple(cells)))
    name = "Where the configurations differ"
    return Table(("Strategy", *keys), tuple(rows), name, frozenset(keys))


def configurations(book: Book) -> list[Configuration]:
    """Every configuration in full."""
    told = _told(book)
    keys = differing([config for _, config in told])
    return [_whole(book, group, config, keys) for group, config in told]


def _told(book: Book) -> list[tuple[Group, dict[str, str]]]:
    told = [(group, flat(config_of(group.runs[0].entry))) for group in book.groups]
    return [(group, config) for group, config in told if config]


def _whole(
    book: Book, group: Group, config: Mapping[str, str], keys: Sequence[str]
) -> Configuration:
    rate = "" if book.rates == (None,) or group.rate is None else f", {rate_name(group.rate)}"
    others = [flat(config_of(run.entry)) for run in group.runs]
    seeds = ", ".join(str(run.entry.seed) for run in group.runs)
    odd = differing([found for found in others if found])
    lines = [(f"# seed {group.runs[0].entry.seed} of {seeds}", False)]
    if odd:
        lines.append((f"# seeds also differ in {', '.join(odd)}", False))
    lines += [(f"{key}: {value}", key in keys) for key, value in config.items()]
    return Configuration(book.name(group.label) + rate, tuple(lines))


def versions(book: Book) -> Table | None:
    """Versions, machine and data; several lines a fact where runs differ."""
    runs = [run for group in book.groups for run in group.runs]
    facts: dict[str, dict[str, list[RunSeries]]] = {}
    for run in runs:
        for key, value in _facts(run).items():
            facts.setdefault(key, {}).setdefault(value, []).append(run)
    if not facts:
        return None
    rows = []
    for key, values in facts.items():
        counts = {value: len(of) for value, of in values.items()}
        lines = (
            (v, f"{n} of {len(runs)} runs" if n < len(runs) else "") for v, n in counts.items()
        )
        rows.append(TableRow(Head(key), (CellLines(tuple(lines)),)))
    return Table(("What", "Value"), tuple(rows), "Versions and data", frozenset(["Value"]))


def _facts(run: RunSeries) -> dict[str, str]:
    records = of_kind(run.entry.records, "config")
    first = records[0] if records else {}
    versions, data = flat(first.get("versions") or {}), flat(first.get("data") or {})
    found = {"Data hash": data.pop("content_hash")} if "content_hash" in data else {}
    found |= {"Data": ", ".join(f"{key} {value}" for key, value in data.items())} if data else {}
    if text := render_text(first.get("data") or {}, first.get("text") or {}):
        found["Text"] = text.removeprefix("data: ")
    if unread := render_unread(first.get("unread") or ()):
        found["Model"] = unread
    if versions:
        found["Versions"] = ", ".join(f"{key} {value}" for key, value in versions.items())
    if first.get("parameters"):
        found["Parameters"] = f"{first['parameters']:,}"
    if run.entry.priced is not None:
        found["Fleet"] = run.entry.priced.fleet
        found["Nodes"] = str(run.entry.priced.nodes)
    return found

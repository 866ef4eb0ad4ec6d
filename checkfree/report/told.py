"""What was run, exactly: each configuration line by line, and where strategies differ."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from checkfree.record import of_kind
from checkfree.report.groups import Book, Group, config_of, rate_name
from checkfree.report.markup import NOTHING, breakable, cell, escape, head, row, table
from checkfree.report.tracks import Run

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


def configurations(book: Book) -> str:
    """A table of what differs, then every configuration in full."""
    told = [(group, flat(config_of(group.runs[0].entry))) for group in book.groups]
    told = [(group, config) for group, config in told if config]
    if not told:
        return "<p>No configuration is recorded.</p>"
    keys = differing([config for _, config in told])
    parts = [_differences(book, told, keys)] if keys else []
    return "".join([*parts, *(_whole(book, group, config, keys) for group, config in told)])


def _differences(
    book: Book, told: Iterable[tuple[Group, Mapping[str, str]]], keys: Sequence[str]
) -> str:
    rows = (
        row(_title(book, group), *(_value(group, config, key, book) for key in keys))
        for group, config in told
    )
    return table(
        ("Strategy", *(f"{key}|" for key in keys)), rows, "Where the configurations differ"
    )


def _title(book: Book, group: Group) -> str:
    rate = "" if book.rates == (None,) else rate_name(group.rate)
    return head(breakable(group.label), "" if group.is_reference else escape(rate))


def _value(group: Group, config: Mapping[str, str], key: str, book: Book) -> str:
    value = escape(config.get(key, NOTHING))
    odd = key == "failures.stages" and group.label in book.may_fail
    return cell(f'<span class="bad">{value}</span>' if odd else value, text=True)


def _whole(book: Book, group: Group, config: Mapping[str, str], keys: Sequence[str]) -> str:
    rate = "" if book.rates == (None,) or group.rate is None else f", {rate_name(group.rate)}"
    others = [flat(config_of(run.entry)) for run in group.runs]
    seeds = ", ".join(str(run.entry.seed) for run in group.runs)
    odd = differing([found for found in others if found])
    lines = [f"# seed {group.runs[0].entry.seed} of {seeds}"]
    if odd:
        lines.append(f"# seeds also differ in {', '.join(odd)}")
    body = [escape(line) for line in lines]
    for key, value in config.items():
        line = f"{escape(key)}: {escape(value)}"
        body.append(f"<mark>{line}</mark>" if key in keys else line)
    title = escape(book.name(group.label) + rate)
    return f"<details><summary>{title}</summary><pre>{chr(10).join(body)}</pre></details>"


def versions(book: Book) -> str:
    """Versions, machine and data; several lines a fact where runs differ."""
    runs = [run for group in book.groups for run in group.runs]
    facts: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        for key, value in _facts(run).items():
            facts.setdefault(key, {}).setdefault(value, []).append(run)
    rows = (
        row(head(escape(key)), cell("<br>".join(_shared(values, len(runs))), text=True))
        for key, values in facts.items()
    )
    return table(("What", "Value|"), rows, "Versions and data") if facts else ""


def _facts(run: Run) -> dict[str, str]:
    records = of_kind(run.entry.records, "config")
    first = records[0] if records else {}
    versions, data = flat(first.get("versions") or {}), flat(first.get("data") or {})
    found = {"Data hash": data.pop("content_hash")} if "content_hash" in data else {}
    found |= {"Data": ", ".join(f"{key} {value}" for key, value in data.items())} if data else {}
    if versions:
        found["Versions"] = ", ".join(f"{key} {value}" for key, value in versions.items())
    if first.get("parameters"):
        found["Parameters"] = f"{first['parameters']:,}"
    if run.entry.priced is not None:
        found["Fleet"] = run.entry.priced.fleet
        found["Nodes"] = str(run.entry.priced.nodes)
    return found


def _shared(values: Mapping[str, Sequence[Run]], count: int) -> list[str]:
    if len(values) == 1 and len(next(iter(values.values()))) == count:
        return [_shown(value) for value in values]
    return [
        f"{_shown(value)} <small>{len(runs)} of {count} runs</small>"
        for value, runs in values.items()
    ]


def _shown(value: str) -> str:
    """A hash may break anywhere, words may not."""
    return (
        f"<code>{escape(value)}</code>" if len(value) > 40 and " " not in value else escape(value)
    )

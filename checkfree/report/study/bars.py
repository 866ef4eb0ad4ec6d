"""Where the time and the bytes went: bars by class, as plotly understands them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from checkfree.core.cost import BYTES, SECONDS
from checkfree.core.units import render_bytes, render_seconds
from checkfree.report.study.groups import Book, Group
from checkfree.report.study.style import BYTES_FILLS, SECONDS_FILLS, Fill
from checkfree.report.study.summary import mean
from checkfree.report.study.traces import Trace, plain, wrapped

MEASURES = ("seconds", "bytes")


def spent(group: Group, measure: str) -> dict[str, float]:
    """Mean over its priced seeds, by class, of a whole run; empty if none is priced."""
    priced = [run.entry.priced for run in group.runs if run.entry.priced is not None]
    if not priced:
        return {}
    if measure == "seconds":
        return {name: mean(p.seconds.get(name, 0.0) for p in priced) or 0.0 for name in SECONDS}
    return {name: mean(p.bytes.get(name, 0) for p in priced) or 0.0 for name in BYTES}


def ledger(book: Book) -> list[Trace]:
    """A bar a strategy, stacked by class, keyed by ``rate`` and ``measure``."""
    found = []
    for place, rate in enumerate(book.rates):
        groups = [group for group in book.at(rate) if spent(group, "seconds")]
        for measure in MEASURES if groups else ():
            keys = {"rate": place, "measure": measure}
            found += _stack(book, groups, measure, keys)
    return found


def _stack(book: Book, groups: list[Group], measure: str, keys: Mapping[str, Any]) -> list[Trace]:
    fills: Mapping[str, Fill] = SECONDS_FILLS if measure == "seconds" else BYTES_FILLS
    scale, render = (3600.0, render_seconds) if measure == "seconds" else (2.0**30, render_bytes)
    names = [wrapped(group.label, 26) for group in groups]
    found = []
    for name, fill in fills.items():
        values = [spent(group, measure).get(name, 0.0) for group in groups]
        if not any(values):
            continue
        totals = [sum(spent(group, measure).values()) or 1.0 for group in groups]
        texts = [f"{render(v)}, {v / t:.1%}" for v, t in zip(values, totals, strict=True)]
        bar = {
            "type": "bar",
            "orientation": "h",
            "name": plain(name),
            "y": names,
            "x": [float(f"{value / scale:.6g}") for value in values],
            "customdata": texts,
            "hovertemplate": "%{customdata}",
            "marker": _marker(fill),
        }
        found.append({**bar, "keys": dict(keys)})
    return found


def _marker(fill: Fill) -> dict[str, Any]:
    marker: dict[str, Any] = {"color": fill.color, "line": {"color": "white", "width": 0.5}}
    if fill.shape:
        pattern = {"shape": fill.shape, "fgcolor": "rgba(255,255,255,0.75)", "size": 6}
        marker["pattern"] = {**pattern, "solidity": 0.25, "bgcolor": fill.color}
    return marker

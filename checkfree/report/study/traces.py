"""The plots of the page as plotly understands them: plain traces, each with the keys that say when
the page shows it. Nothing is drawn here; ``script`` picks and draws.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from checkfree.report.study.groups import Book, Group
from checkfree.report.study.run_series import AXES, Floats, RunSeries
from checkfree.report.study.seed_means import Curve, gap_curve, mean_curve, seed_line, thin
from checkfree.report.study.style import GREY, INK, PALE, Style, faint, styles_of

Trace = dict[str, Any]

AXIS_TITLES = {
    "iterations": "iteration",
    "tokens": "tokens trained on, rollbacks included",
    "hours": "simulated hours",
    "seconds": "real seconds of training and repairs",
    "cost": "simulated cost",
}
_SEED_POINTS = 300
_MARKED = 40  # of more points than this, markers would make a rope of the line


def curves(book: Book) -> list[Trace]:
    """Losses: for each rate, axis and kind the means with their bands, and every single seed.

    A trace's ``keys`` are ``rate`` (its place among the rates), ``axis``, ``kind``, ``label`` and
    ``part``: ``mean``, ``band``, ``seed`` or ``end`` (a run that could not be saved).
    """
    styles = styles_of(book.labels)
    found = []
    for place, rate in enumerate(book.rates):
        for group in book.at(rate):
            for axis in AXES:
                for kind in ("validation", "training"):
                    keys = {"rate": place, "axis": axis, "kind": kind, "label": group.label}
                    found += _group(book, group, keys, styles[group.label])
    return found


def _group(book: Book, group: Group, keys: Mapping[str, Any], style: Style) -> list[Trace]:
    axis, kind, name = keys["axis"], keys["kind"], plain(book.name(group.label))
    mean = mean_curve(group, kind, axis)
    seeds = [(run, line) for run in group.runs if (line := seed_line(run, kind, axis)) is not None]
    found = [] if mean is None else _mean(mean, name, style, keys)
    if len(group.runs) > 1 or mean is None:
        found += [_seed(run, line, name, style, keys) for run, line in seeds if len(line[0])]
    found += [_end(run, line, name, style, keys) for run, line in seeds if not run.saved]
    return found


def _mean(
    curve: Curve, name: str, style: Style, keys: Mapping[str, Any], sign: str = ""
) -> list[Trace]:
    """The line and, for several seeds, the band about it."""
    held = np.isfinite(curve.half)
    seeds = f"n = {curve.n}"
    spread = [f" ± {half:.4f}" if math.isfinite(half) else "" for half in curve.half]
    line = {
        "type": "scatter",
        "mode": "lines+markers" if len(curve.x) <= _MARKED else "lines",
        "name": name,
        "x": numbers(curve.x),
        "y": numbers(curve.y),
        "text": spread,
        "hovertemplate": f"%{{y:{sign}.4f}}%{{text}} <i>{seeds}</i>",
        "line": {"color": style.color, "width": 2, "dash": style.dash},
        "marker": {"symbol": style.marker, "size": 6, "color": style.color},
    }
    if not held.any():
        return [_keyed(line, keys, "mean")]
    return [_band(curve, held, style, keys), _keyed(line, keys, "mean")]


def _band(curve: Curve, held: Any, style: Style, keys: Mapping[str, Any]) -> Trace:
    x, y, half = curve.x[held], curve.y[held], curve.half[held]
    band = {
        "type": "scatter",
        "mode": "lines",
        "x": numbers(np.concatenate((x, x[::-1]))),
        "y": numbers(np.concatenate((y + half, (y - half)[::-1]))),
        "fill": "toself",
        "fillcolor": faint(style.color, 0.14),
        "line": {"width": 0},
        "hoverinfo": "skip",
    }
    return _keyed(band, keys, "band")


def _seed(
    run: RunSeries, line: tuple[Floats, Floats], name: str, style: Style, keys: Mapping[str, Any]
) -> Trace:
    x, y = thin(*line, _SEED_POINTS)
    trace = {
        "type": "scatter",
        "mode": "lines" if len(x) > 1 else "markers",
        "name": f"{name}, seed {run.entry.seed}",
        "x": numbers(x),
        "y": numbers(y),
        "hovertemplate": "%{y:.4f}",
        "line": {"color": faint(style.color, 0.55), "width": 1, "dash": style.dash},
    }
    return _keyed(trace, keys, "seed")


def _end(
    run: RunSeries, line: tuple[Floats, Floats], name: str, style: Style, keys: Mapping[str, Any]
) -> Trace:
    """A cross where the run's last reading stands."""
    x, y = line[0][-1:], line[1][-1:]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "name": f"{name}, seed {run.entry.seed}",
        "x": numbers(x),
        "y": numbers(y),
        "hovertemplate": f"ended at {run.end}<br>{wrapped(run.reason)}",
        "marker": {"symbol": "x", "size": 10, "color": style.color, "line": _EDGE},
    }
    return _keyed(trace, keys, "end")


_EDGE = {"color": "white", "width": 1}


def gaps(book: Book) -> list[Trace]:
    """Paired differences of validation loss to the reference, keyed by ``rate`` and ``label``."""
    styles = styles_of(book.labels)
    found = []
    for place, rate in enumerate(book.rates):
        for group in book.at(rate):
            if group.is_reference or (curve := gap_curve(book, group)) is None:
                continue
            keys = {"rate": place, "label": group.label}
            found += _mean(curve, plain(book.name(group.label)), styles[group.label], keys, "+")
    return found


def layout(x: str, y: str, height: int) -> dict[str, Any]:
    """What all plots have in common. Titles come in without markup."""
    axis = {
        "gridcolor": PALE,
        "zerolinecolor": "#BDBDBD",
        "linecolor": GREY,
        "ticks": "outside",
        "tickcolor": GREY,
        "automargin": True,
    }
    title = {"standoff": 8, "font": {"size": 13}}
    return {
        "height": height,
        "margin": {"l": 8, "r": 8, "t": 34, "b": 8},  # above: plotly's buttons
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "showlegend": False,
        "hovermode": "closest",
        "dragmode": "zoom",
        "hoverlabel": {"font": {"family": FONT, "size": 12}, "align": "left", "namelength": -1},
        "xaxis": {**axis, "title": {**title, "text": x}, "zeroline": False},
        "yaxis": {**axis, "title": {**title, "text": y}},
    }


FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def _keyed(trace: Trace, keys: Mapping[str, Any], part: str) -> Trace:
    return {**trace, "keys": {**keys, "part": part}}


def numbers(values: Iterable[float]) -> list[float | None]:
    """Six digits, which is more than a screen shows; what is no number leaves a hole."""
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in values]


def plain(text: str) -> str:
    """Text in which plotly, which reads some HTML, finds none."""
    return html.escape(text, quote=False).replace("%{", "% {")


def wrapped(text: str, width: int = 48) -> str:
    """The same over several lines of a hover label."""
    lines: list[str] = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(plain(line) for line in lines)

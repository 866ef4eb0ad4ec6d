"""The same figures as PNG, for a README or a paper: without pyplot, so no display is needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from checkfree.core.cost import SECONDS
from checkfree.report.study.bars import spent
from checkfree.report.study.frontier import AXES as FRONTIER_AXES
from checkfree.report.study.frontier import TICKS, FrontierPoint, squeezed
from checkfree.report.study.groups import Book, rate_name
from checkfree.report.study.model import REFERENCE
from checkfree.report.study.seed_means import Curve, gap_curve, mean_curve, seed_line
from checkfree.report.study.style import GREY, INK, PALE, SECONDS_FILLS, Style, styles_of

_WIDTH, _HEIGHT, _DOTS = 5.2, 3.7, 150  # inches of a panel, dots per inch
_MARKED = 40

Drawer = Callable[[Book, float | None, Axes], list[Curve]]


def draw_losses(book: Book, path: Path) -> None:
    """Mean validation loss over iterations with its band, a panel a rate."""
    _panels(book, path, _losses, "validation loss (nats per token)", with_reference=True)


def draw_gaps(book: Book, path: Path) -> None:
    """Mean paired difference to the reference with its band, a panel a rate."""
    _panels(book, path, _gaps, f"loss − loss of {REFERENCE}", with_reference=False)


def draw_frontier(book: Book, points: Sequence[FrontierPoint], path: Path) -> None:
    """Each strategy's gap against the bytes that it sends and holds: two panels a rate."""
    figure = Figure(
        figsize=(2 * _WIDTH, _HEIGHT * len(book.rates) + 0.7), dpi=_DOTS, layout="constrained"
    )
    FigureCanvasAgg(figure)
    found = figure.subplots(len(book.rates), len(FRONTIER_AXES), squeeze=False, sharey=True)
    for row, rate in zip(found, book.rates, strict=True):
        drawn = [p for p in points if p.group.rate in (rate, None) and not p.missing]
        for axes, (axis, title) in zip(row, FRONTIER_AXES.items(), strict=True):
            _points(axes, book, drawn, axis)
            axes.set_xlabel(title, color=INK, fontsize=9)
        if book.rates != (None,):
            row[0].set_title(rate_name(rate), loc="left", fontsize=11, color=INK)
    figure.supylabel(f"loss − loss of {REFERENCE}", fontsize=10, color=INK)
    _legend(figure, book, with_reference=False)
    figure.savefig(path, format="png", metadata={"Software": None})


def _points(axes: Axes, book: Book, points: Sequence[FrontierPoint], axis: str) -> None:
    styles = styles_of(book.labels)
    axes.axhline(0, color=INK, linewidth=1)
    for point in points:
        style, gap = styles[point.group.label], point.gap
        assert gap is not None
        half = gap.half if math.isfinite(gap.half) else 0.0
        axes.errorbar(
            [squeezed(point.of(axis))],
            [gap.mean],
            yerr=[half],
            color=style.color,
            marker=style.symbol,
            markersize=7,
            capsize=3,
        )
    if not points:
        axes.text(0.5, 0.5, "no strategy's bytes are known", transform=axes.transAxes, ha="center")
    most = max((point.of(axis) for point in points), default=0.0)
    ticks = [tick for tick in TICKS if tick <= 10 * max(most, TICKS[1])]
    axes.set_xticks([squeezed(tick) for tick in ticks], [f"{tick:g}" for tick in ticks])
    axes.set_xlim(-0.1, squeezed(ticks[-1]) + 0.1)
    axes.grid(axis="y", color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=GREY, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)


_LETTER, _ROW = 0.072, 0.19
"""Inches that a letter of the legend is wide, and a row of it high."""


def _panels(book: Book, path: Path, draw: Drawer, title: str, with_reference: bool) -> None:
    count = len(book.rates)
    columns = min(count, 3)
    rows = math.ceil(count / columns)
    figure = Figure(
        figsize=(max(7.0, _WIDTH * columns), _HEIGHT * rows + 0.7), dpi=_DOTS, layout="constrained"
    )
    FigureCanvasAgg(figure)
    found = figure.subplots(rows, columns, squeeze=False, sharey=True)
    drawn: list[Curve] = []
    for place, axes in enumerate(found.flat):
        if place >= count:
            axes.set_visible(False)
            continue
        drawn += draw(book, book.rates[place], axes)
        _plain(axes)
        if book.rates != (None,):
            axes.set_title(rate_name(book.rates[place]), loc="left", fontsize=11, color=INK)
    view = _view(drawn)
    if view is not None:
        found.flat[0].set_ylim(*view)  # one for all panels
    figure.supylabel(title, fontsize=10, color=INK)
    _legend(figure, book, with_reference)
    figure.savefig(path, format="png", metadata={"Software": None})


def _losses(book: Book, rate: float | None, axes: Axes) -> list[Curve]:
    styles, drawn = styles_of(book.labels), []
    for group in book.at(rate):
        style = styles[group.label]
        curve = mean_curve(group, "validation", "iterations")
        if curve is not None:
            drawn.append(_line(axes, curve, style))
        for run in group.lost:
            x, y = seed_line(run, "validation", "iterations") or (np.empty(0), np.empty(0))
            axes.plot(x, y, color=style.color, linewidth=0.8, alpha=0.5)
            axes.plot(x[-1:], y[-1:], color=style.color, marker="X", markersize=8, zorder=5)
            drawn.append(Curve(x, y, np.zeros(len(x)), 1))
    return drawn


def _gaps(book: Book, rate: float | None, axes: Axes) -> list[Curve]:
    styles = styles_of(book.labels)
    axes.axhline(0, color=INK, linewidth=1)
    return [
        _line(axes, curve, styles[group.label])
        for group in book.at(rate)
        if not group.is_reference and (curve := gap_curve(book, group)) is not None
    ]


def _line(axes: Axes, curve: Curve, style: Style) -> Curve:
    low, high = curve.y - curve.half, curve.y + curve.half
    axes.plot(
        curve.x,
        curve.y,
        color=style.color,
        linestyle=_dash(style),
        linewidth=1.7,
        marker=style.symbol if len(curve.x) <= _MARKED else None,
        markersize=4,
    )
    axes.fill_between(curve.x, low, high, color=style.color, alpha=0.15, linewidth=0)
    return curve


def _dash(style: Style) -> Any:
    return (0, tuple(length / 2 for length in style.strokes)) if style.strokes else "solid"


def _view(curves: Sequence[Curve]) -> tuple[float, float] | None:
    """All of the lines, and of their bands only a quarter more: with two seeds a band is nine
    times the spread, and would leave the lines no room."""
    lines = [curve.y[np.isfinite(curve.y)] for curve in curves]
    points = np.concatenate([*lines, np.empty(0)])
    if not len(points):
        return None
    low, high = float(points.min()), float(points.max())
    span = high - low or abs(high) / 10 or 1.0
    widest = max(float(np.nan_to_num(curve.half).max(initial=0.0)) for curve in curves)
    more = min(widest, span / 4) + 0.04 * span
    return low - more, high + more


def _plain(axes: Axes) -> None:
    if not axes.lines:
        axes.text(0.5, 0.5, "nothing was recorded", transform=axes.transAxes, ha="center")
    axes.grid(axis="y", color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=GREY, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
    axes.set_xlabel("iteration", color=INK, fontsize=10)


def _legend(figure: Figure, book: Book, with_reference: bool) -> None:
    shown = [label for label in book.labels if with_reference or label != REFERENCE]
    styles = styles_of(book.labels)
    handles = [
        Line2D(
            [],
            [],
            color=styles[label].color,
            linewidth=1.7,
            marker=styles[label].symbol,
            markersize=4,
            linestyle=_dash(styles[label]),
            label=book.name(label).replace("$", r"\$"),
        )
        for label in shown
    ]
    if handles:
        widest = max(2.4, 0.6 + _LETTER * max(len(book.name(label)) for label in shown))
        columns = max(1, min(len(handles), int(figure.get_figwidth() / widest)))
        rows = math.ceil(len(handles) / columns)
        figure.set_figheight(figure.get_figheight() + _ROW * max(0, rows - 3))
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=columns,
            fontsize=9,
            frameon=False,
            handlelength=3.2,
        )


def draw_ledger(book: Book, path: Path) -> None:
    """Simulated hours of a run by class, a bar a strategy and rate."""
    groups = [group for group in book.groups if spent(group, "seconds")]
    figure = Figure(
        figsize=(9.0, 1.5 + 0.36 * max(2, len(groups))), dpi=_DOTS, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = [
        group.label.replace("$", r"\$") + ("" if group.rate is None else f", {group.rate:g} %")
        for group in groups
    ]
    starts = [0.0] * len(groups)
    # Eight classes fit into a row of the legend, and few studies have replays.
    rare = {"replay"} - {k for group in groups for k, s in spent(group, "seconds").items() if s}
    shown = [kind for kind in SECONDS if kind not in rare]
    for kind in shown:
        hours = [spent(group, "seconds").get(kind, 0.0) / 3600 for group in groups]
        fill = SECONDS_FILLS[kind]
        axes.barh(
            range(len(groups)),
            hours,
            left=starts,
            height=0.72,
            color=fill.color,
            hatch=fill.hatch,
            edgecolor="white",
            linewidth=0.4,
        )
        starts = [start + more for start, more in zip(starts, hours, strict=True)]
    axes.set_yticks(range(len(groups)), names, fontsize=9, color=INK)
    axes.invert_yaxis()
    _finish_ledger(figure, axes, bool(groups), shown)
    figure.savefig(path, format="png", metadata={"Software": None})


def _finish_ledger(figure: Figure, axes: Axes, any_bar: bool, shown: Sequence[str]) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", colors=GREY, labelsize=9)
    if not any_bar:
        axes.text(0.5, 0.5, "no run was priced on a fleet", transform=axes.transAxes, ha="center")
        axes.set_axis_off()
        return
    axes.set_xlabel("simulated hours of a whole run, mean over seeds", fontsize=10, color=INK)
    axes.grid(axis="x", color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    handles = [
        Patch(facecolor=fill.color, hatch=fill.hatch, edgecolor="white", linewidth=0, label=kind)
        for kind, fill in ((kind, SECONDS_FILLS[kind]) for kind in shown)
    ]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=8,
        fontsize=8.5,
        frameon=False,
        handlelength=1.6,
        columnspacing=1.2,
    )

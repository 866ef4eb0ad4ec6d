"""A pipeline's timeline as a picture: one row a worker, one box an op, idle time left blank."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from os import PathLike
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from checkfree.core.ops import Address, Kind, Op

Spans = Mapping[tuple[Address, Op], tuple[float, float]]
"""When each op of each worker begins and ends, in seconds."""

# Okabe and Ito's hues, which stay apart for every kind of colour vision, and in grey.
_STYLES = {
    Kind.FORWARD: ("forward", "#56B4E9"),
    Kind.BACKWARD: ("backward", "#E69F00"),
    Kind.WEIGHTS: ("gradient of weights", "#009E73"),
    Kind.REDUNDANT: ("redundant forward", "#CC79A7"),
    Kind.REDUCE: ("reduce gradients", "#999999"),
}
_IDLE, _LINE, _INK = "#F3F3F1", "#FFFFFF", "#1A1A1A"
_INCHES_PER_OP, _INCHES_PER_ROW, _WIDEST, _TALLEST = 0.27, 0.36, 16.0, 16.0
_INCHES_PER_DIGIT = 0.075
_BOX = 0.84  # share of a row
_HATCH = "///"


def draw_timeline(spans: Spans, path: str | PathLike[str], swapped: Collection[int] = ()) -> None:
    """Draws ``spans`` into a file whose suffix names the format (``.png``, ``.svg``, ``.pdf``).

    Boxes carry their microbatch where the number fits; those in ``swapped`` (microbatches that
    visit the ends in exchanged order) are hatched. Where most boxes are too fine for a number, all
    are plain.
    """
    rows = {worker: row for row, worker in enumerate(sorted({worker for worker, _ in spans}))}
    end = max((end for _, end in spans.values()), default=0.0) or 1.0
    # Inches, such that a middling box holds a number of two digits.
    width = min(max(1 + _INCHES_PER_OP * end / _middling(spans), 6.0), _WIDEST)
    height = min(1.1 + _INCHES_PER_ROW * len(rows), _TALLEST)
    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    axes = figure.add_subplot()
    for row in rows.values():
        axes.broken_barh([(0, end)], (row - _BOX / 2, _BOX), facecolor=_IDLE)
    scale = (width - 1) / end
    fine = _middling(spans) * scale < _INCHES_PER_DIGIT * 1.6
    hatched = () if fine else swapped
    _draw_boxes(axes, spans, rows, hatched, fine)
    if not fine:
        _write_numbers(axes, spans, rows, hatched, scale)
    _label(axes, rows, end)
    shown = {op.kind for (_, op), (start, stop) in spans.items() if stop > start}
    _draw_legend(figure, shown, hatched)
    figure.savefig(path)


def _middling(spans: Spans) -> float:
    """The median length of what takes time, in seconds."""
    return median([stop - start for start, stop in spans.values() if stop > start] or [1.0])


def _draw_boxes(
    axes: Axes, spans: Spans, rows: Mapping[Address, int], swapped: Collection[int], fine: bool
) -> None:
    # One collection for each row and look: tens of thousands of single patches take minutes.
    boxes: dict[tuple[int, Kind, bool], list[tuple[float, float]]] = {}
    for (worker, op), (start, stop) in spans.items():
        if stop > start:
            look = rows[worker], op.kind, op.microbatch in swapped
            boxes.setdefault(look, []).append((start, stop - start))
    # Around boxes of a pixel or two, white lines would be all there is to see.
    line: dict[str, Any] = {"linewidth": 0.0} if fine else {"linewidth": 0.6, "edgecolor": _LINE}
    for (row, kind, hatched), ranges in boxes.items():
        style = {"facecolor": _STYLES[kind][1], **line} | ({"hatch": _HATCH} if hatched else {})
        axes.broken_barh(ranges, (row - _BOX / 2, _BOX), **style)


def _write_numbers(
    axes: Axes,
    spans: Spans,
    rows: Mapping[Address, int],
    swapped: Collection[int],
    inches_per_second: float,
) -> None:
    for (worker, op), (start, stop) in spans.items():
        text = str(op.microbatch)
        if op.kind is Kind.REDUCE:
            continue
        if (stop - start) * inches_per_second >= _INCHES_PER_DIGIT * (len(text) + 0.6):
            # Plain ground beneath a number that stands on hatching.
            ground = {"facecolor": _STYLES[op.kind][1], "linewidth": 0, "pad": 0.6}
            axes.text(
                (start + stop) / 2,
                rows[worker],
                text,
                size=7,
                color=_INK,
                ha="center",
                va="center_baseline",
                bbox=ground if op.microbatch in swapped else None,
            )


def _label(axes: Axes, rows: Mapping[Address, int], end: float) -> None:
    axes.set_xlim(0, end)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    # Every row of a big pipeline has no room for its name.
    step = 1 + len(rows) // 50
    axes.set_yticks(list(rows.values())[::step], [str(worker) for worker in rows][::step], size=8)
    axes.set_ylabel("worker (stage.replica)", size=8)
    axes.set_xlabel("time (s)", size=8)
    axes.tick_params(axis="x", labelsize=8, length=3)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_legend(figure: Figure, kinds: Iterable[Kind], swapped: Collection[int]) -> None:
    present = set(kinds)
    handles = [
        Patch(facecolor=hue, label=name) for k, (name, hue) in _STYLES.items() if k in present
    ]
    handles.append(Patch(facecolor=_IDLE, edgecolor="#CCCCCC", linewidth=0.6, label="idle"))
    if swapped:
        grey, label = "#BBBBBB", "microbatch with swapped ends"
        handles.append(Patch(facecolor=grey, edgecolor=_LINE, hatch=_HATCH, label=label))
    figure.legend(
        handles=handles, loc="outside upper center", ncols=len(handles), fontsize=8, frameon=False
    )

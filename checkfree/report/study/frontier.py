"""What nats cost: each strategy's gap against the bytes that it sends, and those that it holds.

Both are of a parameter of the model that was priced, so that models of all sizes compare. A
strategy is a point; one of which a figure is not known is none, and the table says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from checkfree.report.study.groups import Book, Group
from checkfree.report.study.interval import Estimate
from checkfree.report.study.model import REFERENCE
from checkfree.report.study.run_series import RunSeries
from checkfree.report.study.style import Style, styles_of
from checkfree.report.study.summary import Summary, extra_sent, mean
from checkfree.report.study.traces import Trace, layout, numbers, plain

AXES: Mapping[str, str] = {
    "sent": "bytes sent, per parameter and iteration, beyond the reference",
    "held": "bytes of memory, per parameter, beyond training",
}
"""What a gap is drawn against, and how a reader is told."""

UNIT = 0.01
"""Bytes a parameter below which the scale is even; above it, it is logarithmic."""
TICKS = (0.0, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)


@dataclass(frozen=True)
class FrontierPoint:
    """The figures of one strategy at one rate, means over its seeds; None: not known."""

    group: Group
    gap: Estimate | None
    """To the reference over the whole run, in nats per token."""
    sent: float | None
    """Bytes a parameter and iteration beyond those of the reference."""
    held: float | None
    """Bytes a parameter, of what is kept in memory for the sake of recovery."""

    @property
    def missing(self) -> str:
        """Why it can't be drawn; empty: it can."""
        if self.gap is None or not math.isfinite(self.gap.mean):
            return "not drawn: its gap is not known"
        if self.sent is None or self.held is None:
            return "not drawn: its bytes are not known"
        return ""

    def of(self, axis: str) -> float:
        """Where it stands on an axis; it is drawn."""
        value = self.sent if axis == "sent" else self.held
        return max(0.0, value or 0.0)


def frontier(book: Book, summary: Summary) -> tuple[FrontierPoint, ...]:
    """A point a strategy and rate, but for the reference."""
    return tuple(
        FrontierPoint(
            row.group,
            row.gap,
            mean(n for run in row.group.runs if (n := _sent(book, run)) is not None),
            mean(n for run in row.group.runs if (n := _held(run)) is not None),
        )
        for row in summary.rows
        if not row.group.is_reference
    )


def _sent(book: Book, run: RunSeries) -> float | None:
    extra, priced = extra_sent(book, run), run.entry.priced
    if extra is None or priced is None or not priced.parameters:
        return None
    return extra / priced.parameters


def _held(run: RunSeries) -> float | None:
    priced = run.entry.priced
    if priced is None or not priced.parameters or "own" not in priced.stored:
        return None  # a price of before, which left out what seats keep of themselves
    return (priced.stored["peers"] + priced.stored["own"]) / priced.parameters


def squeezed(value: float) -> float:
    """A place on the scale: from nothing to a thousand bytes, with room for both ends."""
    return math.log10(1 + value / UNIT)


def frontier_traces(book: Book, points: Sequence[FrontierPoint]) -> list[Trace]:
    """A marker a strategy, keyed by ``rate``, ``label`` and ``spend``, one of ``AXES``."""
    styles = styles_of(book.labels)
    found = []
    for place, rate in enumerate(book.rates):
        shown = [p for p in points if p.group.rate in (rate, None) and not p.missing]
        for point in shown:
            for axis in AXES:
                keys = {"rate": place, "label": point.group.label, "spend": axis}
                found.append({**_marker(book, point, styles, axis), "keys": keys})
    return found


def _marker(book: Book, point: FrontierPoint, styles: Mapping[str, Style], axis: str) -> Trace:
    style, gap = styles[point.group.label], point.gap
    assert gap is not None
    half = gap.half if math.isfinite(gap.half) else 0.0
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain(book.name(point.group.label)),
        "x": numbers([squeezed(point.of(axis))]),
        "y": numbers([gap.mean]),
        "error_y": {"type": "data", "array": numbers([half]), "color": style.color, "width": 4},
        "customdata": [f"{point.of(axis):.3g} bytes"],
        "hovertemplate": "%{y:+.4f} nats, %{customdata}",
        "marker": {"symbol": style.marker, "size": 11, "color": style.color},
    }


def frontier_layout() -> dict[str, Any]:
    """Of the page's plot; the script names what the axis is."""
    made = layout("", f"loss − loss of {REFERENCE} (nats per token)", 380)
    made["xaxis"] |= {
        "tickvals": [squeezed(tick) for tick in TICKS],
        "ticktext": [f"{tick:g}" for tick in TICKS],
    }
    return made

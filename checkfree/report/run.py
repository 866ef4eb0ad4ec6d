"""The picture of one run: its losses over ticks, what was lost when, and what repairs cost.

Drawn without pyplot, so it needs no display and leaves no state behind. Colours are those of Okabe
and Ito, which people with any kind of colour vision can tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from checkfree.report.loss_marks import (
    Jump,
    Records,
    StyledLine,
    iteration_at,
    jumps,
    labels,
    line,
    names,
    placed,
    rolled_back,
    rules,
    smooth_line,
    tick_of,
)

BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
INK, GREY, PALE = "#222222", "#666666", "#EBEBEB"

_INCHES = (9.0, 4.2)
_DOTS_PER_INCH = 150
_AXES = (0.075, 0.15, 0.905, 0.68)  # left, bottom, width, height, as shares of the figure
_LABEL_POINTS = 8.0
_LETTER = 0.62  # mean width of a letter, as a share of its font size


def draw_run(
    iterations: Records,
    validations: Records,
    failures: Records,
    recoveries: Records,
    path: str | Path,
    title: str,
) -> None:
    """Write the loss curve of one run to ``path``, a PNG of 1,350 by 630 dots.

    All but the last two are records as plain mappings (``checkfree.core.records``): iterations and
    validations with ``tick``, ``iteration`` and ``loss`` (nats per token; validations also
    ``after_repair``), failures with ``seats`` and ``stages``, recoveries with ``rules`` or
    ``rebuilds``. Any key may be missing, any loss NaN or None, and any list empty. Raises OSError
    if ``path`` cannot be written.
    """
    figure = Figure(figsize=_INCHES, dpi=_DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    axes = figure.add_axes(_AXES)
    _bound(axes, [*iterations, *validations, *failures, *recoveries])
    spans = rolled_back(iterations)
    _draw_rollbacks(axes, spans)
    _draw_failures(axes, failures)
    _draw_training(axes, line(iterations), breaks=[start for start, _ in spans])
    _draw_validation(axes, line(v for v in validations if not v.get("after_repair")))
    _draw_jumps(axes, jumps(recoveries, validations), rules(recoveries))
    _finish(axes, iterations, title)
    if not any(math.isfinite(loss) for loss in line([*iterations, *validations]).losses):
        axes.text(0.5, 0.5, "no loss was recorded", transform=axes.transAxes, ha="center")
        axes.set_yticks([])
    figure.savefig(path, format="png", metadata={"Software": None})


def _bound(axes: Axes, records: Records) -> None:
    ticks = [tick for record in records if (tick := tick_of(record)) is not None] or [0.0]
    low, high = min(ticks), max(ticks)
    margin = max(0.5, 0.012 * (high - low))
    axes.set_xlim(low - margin, high + margin)


def _draw_rollbacks(axes: Axes, spans: Sequence[tuple[float, float]]) -> None:
    for place, (start, end) in enumerate(spans):
        name = "trained again after a rollback" if place == 0 else None
        axes.axvspan(start - 0.5, end - 0.5, color=PALE, linewidth=0, zorder=0, label=name)


def _draw_failures(axes: Axes, failures: Records) -> None:
    found = placed(failures)
    seats = [pair for pair in found if pair[1].get("seats") and not pair[1].get("stages")]
    whole = [pair for pair in found if pair not in seats]
    # Many failures must not bury the curve that they belong to.
    strength = max(0.25, min(0.8, 12 / max(1, len(found))))
    for those, style, name in ((whole, "--", "stage lost"), (seats, ":", "seat lost, twin lived")):
        count = sum(max(1, len(names(failure))) for _, failure in those)
        for place, (tick, _) in enumerate(those):
            axes.axvline(
                tick,
                color=INK,
                linestyle=style,
                linewidth=0.9,
                alpha=strength,
                zorder=1,
                label=f"{name} ({count})" if place == 0 else None,
            )
    _label_failures(axes, failures)


def _label_failures(axes: Axes, failures: Records) -> None:
    low, high = axes.get_xlim()
    points = _INCHES[0] * _AXES[2] * 72
    letter = _LETTER * _LABEL_POINTS * (high - low) / points
    for label in labels(failures, letter, low, high):
        axes.annotate(
            label.text,
            (label.x, 1.0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=_LABEL_POINTS,
            color=INK,
        )


def _draw_training(axes: Axes, training: StyledLine, breaks: Sequence[float]) -> None:
    count = len(training.ticks)
    if count < 20:
        marker = "o" if count < 3 else None
        _plot(axes, training, color=BLUE, linewidth=1.6, marker=marker, label="training loss")
        return
    _plot(axes, training, color=BLUE, linewidth=0.7, alpha=0.35, label="training loss")
    width = max(5, count // 40)
    smoothed = smooth_line(training, width, breaks)
    _plot(axes, smoothed, color=BLUE, linewidth=1.8, label=f"mean of {width // 2 * 2 + 1}")


def _draw_validation(axes: Axes, validation: StyledLine) -> None:
    marker = "o" if len(validation.ticks) <= 60 else None
    _plot(
        axes,
        validation,
        color=VERMILLION,
        linewidth=1.6,
        marker=marker,
        markersize=3.8,
        label="validation loss",
        zorder=4,
    )


def _plot(axes: Axes, shown: StyledLine, label: str, **style: object) -> None:
    if any(map(math.isfinite, shown.losses)):
        axes.plot(shown.ticks, shown.losses, label=label, **style)  # type: ignore[arg-type]


def _draw_jumps(axes: Axes, found: Sequence[Jump], by_rule: str) -> None:
    measured = [jump for jump in found if math.isfinite(jump.after)]
    if not measured:
        return
    both = [jump for jump in measured if math.isfinite(jump.before)]
    axes.vlines(
        [jump.tick for jump in both],
        [jump.before for jump in both],
        [jump.after for jump in both],
        color=PURPLE,
        linewidth=2.2,
        zorder=5,
    )
    axes.scatter(
        [jump.tick for jump in measured],
        [jump.after for jump in measured],
        s=26,
        marker="D",
        facecolor="white",
        edgecolor=PURPLE,
        linewidth=1.5,
        zorder=6,
        label="right after repair" + (f": {by_rule}" if by_rule else ""),
    )


def _finish(axes: Axes, iterations: Records, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, color=INK, pad=20, fontweight="bold")
    axes.set_ylabel("loss (nats per token)", color=INK)
    axes.grid(axis="y", color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=GREY, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True, min_n_ticks=1))
    _name_ticks(axes, iterations)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right", fontsize=8.5, framealpha=0.92, edgecolor=PALE)


def _name_ticks(axes: Axes, iterations: Records) -> None:
    """One name if ticks and iterations are the same; else both numbers at each mark."""
    if all(record.get("iteration", tick) == tick for tick, record in placed(iterations)):
        axes.set_xlabel("iteration", color=INK)
        return
    axes.set_xlabel("tick (below: iteration)", color=INK)

    def both(tick: float, _: int | None) -> str:
        iteration = iteration_at(iterations, tick)
        return f"{tick:.0f}" if iteration is None else f"{tick:.0f}\n({iteration})"

    axes.xaxis.set_major_formatter(FuncFormatter(both))

"""The picture of a branching: each rule's gap over the steps after the loss, a panel per stage."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from checkfree.report.branches import Branch, Branching

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
STYLES = ("-", "--", ":", "-.")
PALE, GREY = "#EBEBEB", "#666666"
_COLUMNS = 3
_PANEL = (6.0, 4.2)  # inches
_DOTS_PER_INCH = 130


def draw_branches(found: Branching, path: str | Path) -> None:
    """Write a PNG. Raises OSError if ``path`` cannot be written."""
    stages = sorted({branch.stage for branch in found.branches})
    columns = min(len(stages), _COLUMNS)
    lines = -(-len(stages) // columns)
    size = (_PANEL[0] * columns, _PANEL[1] * lines)
    figure = Figure(figsize=size, dpi=_DOTS_PER_INCH, layout="tight")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False)
    styles = _styles(found)
    for axes, stage in zip(panels.flat, stages, strict=False):
        _panel(axes, found, stage, styles)
    for axes in panels.flat[len(stages) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("gap of validation loss (nats per token)")
    figure.savefig(path, format="png", metadata={"Software": None})


def _styles(found: Branching) -> dict[str, tuple[str, str, str]]:
    """Colour, mark and dash of each rule: told apart without colour too."""
    rules = dict.fromkeys(branch.rule for branch in found.branches)
    dashes = (STYLES[place // len(COLOURS) % len(STYLES)] for place in range(len(rules)))
    return dict(zip(rules, zip(cycle(COLOURS), cycle(MARKERS), dashes, strict=False), strict=False))


def _panel(
    axes: Axes, found: Branching, stage: int, styles: dict[str, tuple[str, str, str]]
) -> None:
    if found.noise is not None:
        band = 2 * found.noise * 2**0.5
        axes.axhspan(-band, band, color=PALE, zorder=0, label="2 × noise of a gap")
    axes.axhline(0, color=GREY, linewidth=0.8)
    seen: set[str] = set()
    for branch in (b for b in found.branches if b.stage == stage):
        _line(axes, found, branch, styles[branch.rule], named=branch.rule not in seen)
        seen.add(branch.rule)
    axes.set_title(f"stage {stage} lost at iteration {found.at}", loc="left", fontsize=11)
    axes.set_xlabel("steps after the loss")
    axes.grid(axis="y", color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper right", fontsize=8, framealpha=0.9, edgecolor=PALE)


def _line(
    axes: Axes, found: Branching, branch: Branch, style: tuple[str, str, str], *, named: bool
) -> None:
    pairs = [
        (steps, gap)
        for steps in sorted(branch.readings)
        if (gap := branch.gap(steps, found.trunk)) is not None
    ]
    label = branch.rule if named else None
    if not pairs:
        axes.plot([], [], color="none", label=f"{branch.rule}: refused" if named else None)
        return
    colour, mark, dash = style
    axes.plot(
        *zip(*pairs, strict=True),
        color=colour,
        marker=mark,
        linestyle=dash,
        markersize=3.5,
        linewidth=1.3,
        label=label,
    )

"""What branches showed: the gap of each rule's validation loss to the run that lost nothing.

A branch is a state of a run, a stage lost there, a rule that rebuilds it, and the same data after.
Steps are counted from the loss (ticks), so a rule that rolls back has trained less by then.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

Readings = Mapping[int, float]
"""Steps after the loss -> validation loss, nats per token. 0: before the next step."""


@dataclass(frozen=True)
class Branch:
    """One stage lost, and one rule applied."""

    stage: int
    rule: str
    """As it was asked for."""
    reinit: int = 0
    """Which of several initialisations; 0: the run's own."""
    readings: Readings = field(default_factory=dict)
    made: str = ""
    """What the stage was rebuilt from."""
    rolled_back: int = 0
    """Iterations that the rule took the run back."""
    bytes: int = 0
    """Sent for the repair."""
    mark: str = ""
    """What a reader must know of it."""
    reason: str = ""
    """Why the rule refused, or the branch ended early."""

    def gap(self, steps: int, trunk: Readings) -> float | None:
        """Over the run that lost nothing; None: not measured."""
        here, there = self.readings.get(steps), trunk.get(steps)
        return None if here is None or there is None else here - there


@dataclass(frozen=True)
class Branching:
    """Branches of one state, and the run itself beside them."""

    run: str
    at: int
    gaps: tuple[int, ...]
    trunk: Readings
    branches: tuple[Branch, ...]
    microbatches: int
    """In one reading, always the same ones."""
    tokens: int | None = None
    """In one reading."""
    before: float | None = None
    """Validation loss of the run just before the loss."""
    notes: tuple[str, ...] = ()

    @property
    def noise(self) -> float | None:
        """Standard deviation of one reading, see :func:`noise`."""
        return noise(self.trunk)


def noise(readings: Readings) -> float | None:
    """Standard deviation of a reading around its trend; None from fewer than three readings.

    Of each three successive readings, equally far apart, the middle one's distance from the mean
    of its neighbours: for independent noise of deviation s on a straight trend its mean square is
    1.5 s². A bend of the curve counts as noise, so early in training this is too much.
    """
    losses = [readings[steps] for steps in sorted(readings)]
    bends = [b - (a + c) / 2 for a, b, c in zip(losses, losses[1:], losses[2:], strict=False)]
    return math.sqrt(statistics.fmean(d * d for d in bends) / 1.5) if bends else None


# --- as a table ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class BranchRow:
    """A stage and a rule: mean gaps over its initialisations, and their standard deviations."""

    stage: int
    rule: str
    gaps: tuple[float | None, ...]
    spread: tuple[float | None, ...]
    count: int
    remark: str


def rows(found: Branching) -> tuple[BranchRow, ...]:
    """One per stage and rule, in the order of the branches."""
    groups = groupby(found.branches, key=lambda branch: (branch.stage, branch.rule))
    return tuple(_row(found, list(group)) for _, group in groups)


def _row(found: Branching, group: Sequence[Branch]) -> BranchRow:
    means, spreads = [], []
    for steps in found.gaps:
        gaps = [gap for branch in group if (gap := branch.gap(steps, found.trunk)) is not None]
        means.append(statistics.fmean(gaps) if gaps else None)
        spreads.append(statistics.stdev(gaps) if len(gaps) > 1 else None)
    first = group[0]
    remark = _remark(first, _reasons(found))
    return BranchRow(first.stage, first.rule, tuple(means), tuple(spreads), len(group), remark)


def _reasons(found: Branching) -> dict[str, int]:
    """Why branches were refused or ended, numbered from 1."""
    reasons = dict.fromkeys(branch.reason for branch in found.branches if branch.reason)
    return {reason: number for number, reason in enumerate(reasons, 1)}


def _remark(branch: Branch, reasons: Mapping[str, int]) -> str:
    parts = [branch.made]
    if branch.rolled_back:
        parts.append(f"back {branch.rolled_back} iterations")
    parts.append(branch.mark)
    if branch.reason:
        parts.append(f"{'ended' if branch.made else 'refused'} [{reasons[branch.reason]}]")
    return "; ".join(part for part in parts if part)


def render(found: Branching) -> str:
    """The table, and what its figures mean, as text."""
    heads = ["stage", "rule", *(f"+{steps}" for steps in found.gaps), "rebuilt by"]
    table = [heads]
    for row in rows(found):
        rule = f"{row.rule} (mean of {row.count})" if row.count > 1 else row.rule
        pairs = zip(row.gaps, row.spread, strict=True)
        table.append([str(row.stage), rule, *(_figure(*pair) for pair in pairs), row.remark])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        f"Gap of the validation loss (nats per token) to the uninterrupted run; stages lost at "
        f"iteration {found.at} of {found.run}",
        "",
    ]
    lines += [_aligned(cells, widths) for cells in table]
    return "\n".join([*lines, "", *_legend(found)]) + "\n"


def _figure(gap: float | None, spread: float | None) -> str:
    if gap is None:
        return "–"
    text = "0" if gap == 0 else f"{gap:+.4f}" if abs(gap) >= 5e-5 else "~0"
    return text if spread is None else f"{text} ±{spread:.4f}"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Words to the left, figures to the right."""
    last = len(cells) - 1
    parts = [
        cell.ljust(width) if place in (1, last) else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(parts).rstrip()


def _legend(found: Branching) -> list[str]:
    lines = ["+n: n steps after the loss, on the same data; +0: rebuilt, before the next step."]
    size = f"{found.microbatches} microbatches"
    size += f" ({found.tokens:,} tokens)" if found.tokens else ""
    same = f"A reading is the mean over {size}, the same text each time."
    own = found.noise
    if own is None:
        lines.append(f"{same} Its noise is not known: fewer than three readings were made.")
    else:
        lines.append(
            f"{same} It scatters by {own:.4f} around its trend (second differences of "
            f"{len(found.trunk)} readings of the uninterrupted run), a gap by {own * 2**0.5:.4f}: "
            f"gaps nearer to each other than {2 * own * 2**0.5:.4f} are no findings."
        )
    reasons = [f"[{number}] {reason}" for reason, number in _reasons(found).items()]
    return [*lines, *found.notes, *reasons]


# --- as data -------------------------------------------------------------------------------------


def to_csv(found: Branching) -> str:
    """One line per branch and gap."""
    file = io.StringIO()
    columns = "stage rule reinit steps loss uninterrupted gap noise rolled_back bytes mark reason"
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns.split())
    for branch in found.branches:
        for steps in found.gaps:
            here, there = branch.readings.get(steps), found.trunk.get(steps)
            figures = (here, there, branch.gap(steps, found.trunk), found.noise)
            rest = (branch.rolled_back, branch.bytes, branch.mark, branch.reason)
            writer.writerow((branch.stage, branch.rule, branch.reinit, steps, *figures, *rest))
    return file.getvalue()


def to_tree(found: Branching) -> dict[str, Any]:
    """All of it as plain data, every reading included."""
    return {
        "run": found.run,
        "at": found.at,
        "gaps": list(found.gaps),
        "uninterrupted": {str(steps): loss for steps, loss in sorted(found.trunk.items())},
        "before": found.before,
        "noise": found.noise,
        "validation": {"microbatches": found.microbatches, "tokens": found.tokens},
        "branches": [
            {**vars(b), "readings": {str(s): loss for s, loss in sorted(b.readings.items())}}
            for b in found.branches
        ],
        "notes": list(found.notes),
    }

"""The report's numbers as CSV, with all their digits; an empty field where nothing is known."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from checkfree.core.cost import BYTES, SECONDS
from checkfree.core.records import of_kind
from checkfree.report.study.groups import Book
from checkfree.report.study.interval import Estimate, estimate
from checkfree.report.study.recovery_stats import recoveries_of
from checkfree.report.study.run_series import RunSeries, Track
from checkfree.report.study.summary import Summary, SummaryRow

Cells = Sequence[object]

SUMMARY = (
    "label", "rate", "seeds",
    "gap", "gap_half_interval", "gap_deviation", "gap_seeds",
    "gap_at_end", "gap_at_end_half_interval", "gap_at_end_deviation", "compared_to_iteration",
    "target", "reached", "iterations_to_target", "ticks_to_target", "hours_to_target",
    "seconds_per_iteration", "undisturbed_seconds_per_iteration", "goodput", "cost",
    "failures_per_run", "recoveries_per_run", "lost_seeds", "ended_at", "reasons", "reading_noise",
)  # fmt: skip
CURVES = (
    "label", "rate", "seed", "iteration", "tick", "tokens", "simulated_seconds", "real_seconds",
    "cost", "training_loss", "validation_loss",
)  # fmt: skip
RECOVERIES = (
    "label", "rate", "seed", "tick", "iteration", "seats", "rules", "validation_before",
    "validation_after", "ticks_until_back", "resume_at", "lost_iterations", "bytes",
    "simulated_seconds", "real_seconds", "ended",
)  # fmt: skip
LEDGER = ("label", "rate", "seed", "unit", "class", "amount")


def write_csvs(book: Book, summary: Summary, folder: Path) -> None:
    """Raises OSError if the folder takes no more."""
    _write(folder / "summary.csv", SUMMARY, (_summary(row, summary) for row in summary.rows))
    every = [run for group in book.groups for run in group.runs]
    _write(folder / "curves.csv", CURVES, (line for run in every for line in _curve(run)))
    _write(folder / "recoveries.csv", RECOVERIES, (line for run in every for line in _cures(run)))
    _write(folder / "ledger.csv", LEDGER, (line for run in every for line in _ledger(run)))


def _write(path: Path, names: Sequence[str], lines: Iterable[Cells]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_field(value) for value in line] for line in lines)


def _field(value: object) -> object:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _summary(row: SummaryRow, summary: Summary) -> Cells:
    group, lost = row.group, row.group.lost
    reached = [(float(at.iteration), float(at.tick), at.hours) for at in row.reached]
    means = [estimate(values) for values in zip(*reached, strict=True)] or [None] * 3
    return (
        group.label, group.rate, len(group.runs),
        *_estimate(row.gap), row.gap.n if row.gap else 0, *_estimate(row.gap_at_end),
        row.compared_to, summary.target, len(reached),
        *(found.mean if found else None for found in means),
        row.seconds, row.undisturbed, row.goodput, row.cost, row.failures, row.recoveries,
        " ".join(str(run.entry.seed) for run in lost), " ".join(str(run.end) for run in lost),
        " | ".join(dict.fromkeys(run.reason for run in lost)), summary.noise,
    )  # fmt: skip


def _estimate(found: Estimate | None) -> Cells:
    return (found.mean, found.half, found.deviation) if found else (None, None, None)


def _curve(run: RunSeries) -> Iterator[Cells]:
    """A line a tick that has a loss, in the order in which it happened."""
    training, validation = _by_tick(run.training), _by_tick(run.validation)
    entry = run.entry
    for tick in sorted(training.keys() | validation.keys()):
        place, track = (
            (training[tick], run.training)
            if tick in training
            else (validation[tick], run.validation)
        )
        hours = _clock(track, "hours", place)
        yield (
            entry.label, entry.rate, entry.seed, track.iterations[place], tick,
            _clock(track, "tokens", place), hours * 3600, _clock(track, "seconds", place),
            _clock(track, "cost", place),
            run.training.losses[training[tick]] if tick in training else None,
            run.validation.losses[validation[tick]] if tick in validation else None,
        )  # fmt: skip


def _by_tick(track: Track) -> dict[int, int]:
    return {int(tick): place for place, tick in enumerate(track.ticks)}


def _clock(track: Track, axis: str, place: int) -> float:
    return float(track.clocks[axis][place]) if axis in track.clocks else math.nan


def _cures(run: RunSeries) -> Iterator[Cells]:
    """A line a repair; and one for what was never repaired, with why."""
    entry = run.entry
    records = of_kind(entry.records, "recovery")
    took = entry.priced.recoveries if entry.priced is not None else ()
    for place, (line, record) in enumerate(zip(recoveries_of(run), records, strict=True)):
        rules = line["rules"]
        yield (
            entry.label, entry.rate, entry.seed, line["tick"], line["iteration"], " ".join(rules),
            " | ".join(dict.fromkeys(rules.values())), line["before"], line["after"],
            line["back_after"], record.get("resume_at"), record.get("lost_iterations"),
            record.get("bytes"), took[place] if place < len(took) else None, record.get("seconds"),
            "",
        )  # fmt: skip
    if not run.saved:
        yield (
            entry.label, entry.rate, entry.seed, run.ticks, run.end,
            *("",) * (len(RECOVERIES) - 6), run.reason,
        )  # fmt: skip


def _ledger(run: RunSeries) -> Iterator[Cells]:
    entry = run.entry
    if entry.priced is None:
        return
    for unit, names, amounts in (
        ("seconds", SECONDS, entry.priced.seconds),
        ("bytes", BYTES, entry.priced.bytes),
    ):
        for name in names:
            yield (entry.label, entry.rate, entry.seed, unit, name, amounts.get(name, 0))

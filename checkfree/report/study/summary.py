"""The numbers of the headline table: a row a strategy and rate, as plain data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from checkfree.core.cost import LOSSES
from checkfree.core.records import of_kind
from checkfree.report.study.groups import Book, Group
from checkfree.report.study.interval import Estimate, estimate, reading_noise
from checkfree.report.study.run_series import RunSeries


@dataclass(frozen=True)
class Reached:
    """Where a run first read a validation loss at or below the target."""

    iteration: int
    tick: int
    hours: float
    """Simulated; NaN without a price."""


@dataclass(frozen=True)
class SummaryRow:
    """One strategy at one rate; None where there is nothing to tell."""

    group: Group
    gap: Estimate | None
    """To the reference, mean over validation points after iteration 0; nats per token."""
    gap_at_end: Estimate | None
    compared_to: int | None
    """The last iteration that all seeds and their references have."""
    reached: tuple[Reached, ...]
    """Of the seeds that reached the target."""
    seconds: float | None
    """Simulated, per iteration that the run kept, whatever was lost and repeated included."""
    undisturbed: float | None
    """The same without what losses took, see ``LOSSES``."""
    goodput: float | None
    cost: float | None
    failures: float
    """Losses of stages per run."""
    recoveries: float

    @property
    def last_validation(self) -> Estimate | None:
        """The loss at the end, over seeds; None if one of them ended early, for then there is no
        mean of the end."""
        if self.group.lost or self.group.unfinished:
            return None
        curves = (run.validation.on("iterations") for run in self.group.runs)
        return estimate(float(found[1][-1]) for found in curves if found and len(found[1]))


@dataclass(frozen=True)
class Summary:
    """All rows, and what they are measured against."""

    rows: tuple[SummaryRow, ...]
    target: float | None
    target_from: str
    noise: float
    """Of one validation reading, in nats per token; NaN if the reference has too few."""


def summarize(book: Book) -> Summary:
    """Every number of the headline table."""
    target, source = target_of(book)
    rows = tuple(_row(book, group, target) for group in book.groups)
    losses = [run.validation.last()[1].tolist() for run in book.references]
    return Summary(rows, target, source, reading_noise(losses))


def target_of(book: Book) -> tuple[float | None, str]:
    """The validation loss to reach, and where it comes from."""
    if book.study.target is not None:
        return book.study.target, "given"
    bests = [best(run) for run in book.references]
    finite = [loss for loss in bests if math.isfinite(loss)]
    return (max(finite), "the worst of the reference's best") if finite else (None, "")


def best(run: RunSeries) -> float:
    """The lowest validation loss; NaN if none was read."""
    losses = run.validation.losses[np.isfinite(run.validation.losses)]
    return float(losses.min()) if len(losses) else math.nan


def _row(book: Book, group: Group, target: float | None) -> SummaryRow:
    gaps = () if group.is_reference else gap_lines(book, group)
    curves = [run.entry.priced for run in group.runs]
    kept = [(priced, len(set(priced.iterations))) for priced in curves if priced is not None]
    calm = [sum(s for name, s in p.seconds.items() if name not in LOSSES) for p, _ in kept]
    return SummaryRow(
        group,
        estimate(fmean(gap.values()) for gap in gaps if gap),
        estimate(gap[max(gap)] for gap in gaps if gap),
        max(gaps[0]) if gaps and gaps[0] else None,
        tuple(at for run in group.runs if (at := reach(run, target)) is not None),
        mean(p.total / count for p, count in kept if count),
        mean(c / count for c, (_, count) in zip(calm, kept, strict=True) if count),
        mean(priced.goodput for priced, _ in kept),
        mean(priced.cost for priced, _ in kept if priced.cost is not None),
        fmean(lost_stages(run) for run in group.runs),
        fmean(repaired(run) for run in group.runs),
    )


def gap_lines(book: Book, group: Group) -> tuple[Mapping[int, float], ...]:
    """Per seed with a reference: iteration -> loss minus the reference's, after iteration 0.

    All have the same iterations: those that every seed and every reference has, so they stop where
    the first of them ended.
    """
    pairs = [(run, twin) for run in group.runs if (twin := book.reference(run)) is not None]
    lines = [
        (dict(zip(*_points(run), strict=True)), dict(zip(*_points(twin), strict=True)))
        for run, twin in pairs
    ]
    if not lines:
        return ()
    places = set.intersection(*(set(ours) & set(theirs) for ours, theirs in lines))
    ordered = sorted(int(place) for place in places if place > 0)
    return tuple({at: ours[at] - theirs[at] for at in ordered} for ours, theirs in lines)


def _points(run: RunSeries) -> tuple[list[float], list[float]]:
    x, y = run.validation.on("iterations") or (np.empty(0), np.empty(0))
    return x.tolist(), y.tolist()


def reach(run: RunSeries, target: float | None) -> Reached | None:
    """In the order in which it was trained."""
    if target is None:
        return None
    track = run.validation
    found = np.flatnonzero(np.isfinite(track.losses) & (track.losses <= target))
    if not len(found):
        return None
    place = found[0]
    hours = track.clocks.get("hours")
    return Reached(
        int(track.iterations[place]),
        int(track.ticks[place]),
        math.nan if hours is None else float(hours[place]),
    )


def lost_stages(run: RunSeries) -> int:
    """Stages lost, each time counted; a seat whose twin lived counts as one loss too."""
    failures = of_kind(run.entry.records, "failure")
    return sum(len(f.get("stages") or f.get("seats") or ()) for f in failures)


def repaired(run: RunSeries) -> int:
    """Repairs made; those of a reused curve are its price's."""
    made = len(of_kind(run.entry.records, "recovery"))
    priced = run.entry.priced
    return max(made, len(priced.recoveries)) if priced is not None and run.entry.reused else made


def sent_per_iteration(run: RunSeries) -> dict[str, float] | None:
    """Bytes by class over the iterations that the run kept, validation's last and no part of any
    sum: it measures, it is no cost. None without a price."""
    priced = run.entry.priced
    kept = len(set(priced.iterations)) if priced is not None else 0
    if priced is None or not kept:
        return None
    return {kind: count / kept for kind, count in priced.bytes.items()}


def extra_sent(book: Book, run: RunSeries) -> float | None:
    """Bytes per iteration beyond those of the reference with the same seed."""
    twin = book.reference(run)
    ours, theirs = sent_per_iteration(run), sent_per_iteration(twin) if twin else None
    if ours is None or theirs is None:
        return None
    return sent_in_all(ours) - sent_in_all(theirs)


def sent_in_all(sent: Mapping[str, float]) -> float:
    """Bytes of all classes but validation's."""
    return sum(count for kind, count in sent.items() if kind != "validation")


def mean(values: Iterable[float]) -> float | None:
    """None of nothing."""
    found = list(values)
    return fmean(found) if found else None

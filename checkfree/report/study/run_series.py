"""One run as the report sees it: its losses in the order in which they were read, and the clocks.

Every loss is one of the weights *before* the step of its tick, so each stands where the ticks
before it ended. Real seconds are those of steps and repairs; validation measures, it is no cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from checkfree.core.goodput import goodput
from checkfree.core.records import of_kind
from checkfree.report.loss_marks import finite
from checkfree.report.study.model import Entry

Floats = NDArray[np.float64]
Record = Mapping[str, Any]

AXES = ("iterations", "tokens", "hours", "seconds", "cost")
"""What a loss can be drawn against. ``tokens`` counts those of rollbacks too; ``hours`` are
simulated, ``seconds`` real."""


@dataclass(frozen=True)
class Track:
    """Readings in the order of their ticks, one a tick. Losses in nats per token, NaN if none."""

    ticks: Floats
    iterations: Floats
    losses: Floats
    clocks: Mapping[str, Floats]
    """By axis but ``iterations``; an axis that the run knows nothing of is absent."""

    def __len__(self) -> int:
        return len(self.ticks)

    def on(self, axis: str) -> tuple[Floats, Floats] | None:
        """x and y against ``axis``, x ascending, only finite ones; None: no such axis here.

        Against iterations a rollback leaves the last reading of each; against all else, what
        happened in its order.
        """
        if axis != "iterations" and axis not in self.clocks:
            return None
        x, y = self.last() if axis == "iterations" else (self.clocks[axis], self.losses)
        good = np.isfinite(x) & np.isfinite(y)
        return x[good], y[good]

    def last(self) -> tuple[Floats, Floats]:
        """Iterations, ascending, each with the loss that was read last there."""
        found = dict(zip(self.iterations.tolist(), self.losses.tolist(), strict=True))
        return _floats(sorted(found)), _floats(found[i] for i in sorted(found))


@dataclass(frozen=True)
class RunSeries:
    """An entry with its tracks and how it ended."""

    entry: Entry
    validation: Track
    training: Track
    end: int
    """Iterations that it has, or had when it ended."""
    ticks: int
    """Committed steps, rollbacks included."""
    reason: str
    """Why its strategy could not go on; empty: it could."""
    finished: bool
    """False for a run that was stopped, not lost."""
    goodput: float | None
    """Of real seconds, see :mod:`checkfree.core.goodput`; None: the records don't tell."""

    @property
    def saved(self) -> bool:
        return not self.reason


def run_of(entry: Entry) -> RunSeries:
    """Everything that the report reads of one run, whatever is missing from its records."""
    steps = _by_tick(of_kind(entry.records, "iteration"))
    checks = _by_tick(v for v in of_kind(entry.records, "validation") if not v.get("after_repair"))
    clocks = _clocks(entry, steps)
    ends = of_kind(entry.records, "end")
    end: Record = ends[-1] if ends else {}
    reached = int(max([-1.0, *(finite(r.get("iteration")) for r in steps.values())])) + 1
    lost = end.get("status") == "failed"
    reason = str(end.get("reason") or "its strategy gave no reason") if lost else ""
    if entry.priced is not None and not reason:
        reason = entry.priced.reason
    return RunSeries(
        entry,
        _track(checks, clocks),
        _track(steps, clocks),
        int(end.get("iteration", reached)),
        int(end.get("tick", max(steps, default=-1) + 1)),
        reason,
        bool(reason) or end.get("status") == "done",
        None if entry.reused else goodput(entry.records),
    )


def _by_tick(records: Any) -> dict[int, Record]:
    """A run that was resumed may have a tick twice; the last is what it went on from."""
    found = {int(r["tick"]): r for r in records if r.get("tick") is not None}
    return dict(sorted(found.items()))


def _track(records: Mapping[int, Record], clocks: Mapping[str, Floats]) -> Track:
    ticks = np.array(list(records), dtype=np.int64)
    return Track(
        ticks.astype(np.float64),
        _floats(finite(record.get("iteration")) for record in records.values()),
        _floats(finite(record.get("loss")) for record in records.values()),
        {axis: np.append(c, np.nan)[np.minimum(ticks, len(c))] for axis, c in clocks.items()},
    )


def _clocks(entry: Entry, steps: Mapping[int, Record]) -> dict[str, Floats]:
    """By axis, what had passed after each count of ticks: 0 after none."""
    found = {}
    tokens = _per_tick(steps.values(), "tokens", steps)
    if tokens.any():
        found["tokens"] = _passed(tokens)
    if entry.priced is not None and entry.priced.ends:
        hours = np.concatenate(([0.0], np.asarray(entry.priced.ends, dtype=np.float64))) / 3600
        found["hours"] = hours
        if entry.priced.price is not None:
            found["cost"] = hours * entry.priced.price * entry.priced.nodes
    repairs = of_kind(entry.records, "recovery")
    seconds = _per_tick(steps.values(), "seconds", steps)
    if seconds.any() and not entry.reused:  # another run's seconds would tell nothing of this one
        found["seconds"] = _passed(seconds + _per_tick(repairs, "seconds", steps))
    return found


def _per_tick(records: Any, key: str, steps: Mapping[int, Record]) -> Floats:
    sums = np.zeros(max(steps, default=-1) + 1)
    for record in records:
        tick, value = record.get("tick"), finite(record.get(key))
        if tick is not None and tick < len(sums) and np.isfinite(value):
            sums[tick] += value
    return sums


def _passed(each: Floats) -> Floats:
    return np.concatenate(([0.0], np.cumsum(each)))


def _floats(values: Any) -> Floats:
    return np.array(list(values), dtype=np.float64)


def missed(runs: Sequence[RunSeries], axis: str) -> bool:
    """Whether no run of ``runs`` can be drawn against ``axis``."""
    return axis != "iterations" and not any(axis in run.validation.clocks for run in runs)

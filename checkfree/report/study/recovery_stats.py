"""What the losses of stages did to each strategy: jumps, the way back, seconds of a repair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from checkfree.core.records import recoveries
from checkfree.report.study.groups import Book, Group
from checkfree.report.study.interval import Estimate, estimate
from checkfree.report.study.run_series import RunSeries
from checkfree.report.study.summary import lost_stages


@dataclass(frozen=True)
class RecoveryStats:
    """What losses did to one strategy at one rate."""

    group: Group
    lost: int
    """Stages lost, over all seeds."""
    jump: Estimate | None
    """Validation loss right after a repair minus before its loss; over all repairs."""
    back: float | None
    """Median ticks until the loss was back; None: never, or nothing was measured."""
    returned: int
    measured: int
    """Repairs with a validation before them."""
    seconds: Estimate | None
    """Simulated, of one repair: from the loss until training went on."""
    rules: Mapping[str, int]


def recovery_stats(book: Book) -> tuple[RecoveryStats, ...]:
    """A row for each group that repaired anything, or could not."""
    return tuple(_stats_of(group) for group in book.groups if not group.is_reference)


def _stats_of(group: Group) -> RecoveryStats:
    table = [line for run in group.runs for line in recoveries_of(run)]
    jumps = [
        line["after"] - line["before"]
        for line in table
        if line["before"] is not None and line["after"] is not None
    ]
    measured = [line for line in table if line["before"] is not None]
    back = [line["back_after"] for line in measured if line["back_after"] is not None]
    rules: dict[str, int] = {}
    for line in table:
        for rule in line["rules"].values():
            rules[rule] = rules.get(rule, 0) + 1
    priced = [run.entry.priced for run in group.runs]
    seconds = [s for p in priced if p is not None for s in p.recoveries]
    return RecoveryStats(
        group,
        sum(lost_stages(run) for run in group.runs),
        estimate(jumps),
        _median(back, len(measured)),
        len(back),
        len(measured),
        estimate(seconds),
        rules,
    )


def recoveries_of(run: RunSeries) -> list[dict[str, Any]]:
    """As ``checkfree.core.records.recoveries``, from records that may lack keys."""
    blank: dict[str, Any] = {"rebuilds": {}, "validation_before": None, "validation_after": None}
    return recoveries([{**blank, **r} if r["kind"] == "recovery" else r for r in run.entry.records])


def _median(back: Sequence[float], of: int) -> float | None:
    """With those that never came back counted as later than any that did."""
    middle = median([*back, *[math.inf] * (of - len(back))]) if of else math.inf
    return middle if math.isfinite(middle) else None

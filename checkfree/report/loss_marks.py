"""What a loss curve shows, as plain numbers: lines, losses of seats, jumps at repairs.

No plotting here, so that it can be tested as data. Records may lack keys: what has no tick is
placed at its iteration, what has neither is left out, and a loss that is no finite number is NaN.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any

from checkfree.core.records import APART
from checkfree.recovery.rungs import EXACT, LADDER

Record = Mapping[str, Any]
Records = Sequence[Record]


@dataclass(frozen=True)
class StyledLine:
    """Losses over ticks, ascending; ``losses`` are in nats per token and may be NaN."""

    ticks: tuple[float, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Label:
    """A text centred on ``x``, with the half of its width."""

    x: float
    text: str
    half: float
    count: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Jump:
    """Validation loss just before a failure and right after its repair; NaN where not measured."""

    tick: float
    before: float
    after: float


def tick_of(record: Record) -> float | None:
    """Where a record stands on the axis; None: nowhere."""
    for key in ("tick", "iteration"):
        value = record.get(key)
        if isinstance(value, (int, float)) and math.isfinite(value):
            return float(value)
    return None


def finite(value: object) -> float:
    """``value`` as a float, NaN for anything but a finite number."""
    good = isinstance(value, (int, float)) and math.isfinite(value)
    return float(value) if good else math.nan  # type: ignore[arg-type]


def placed(records: Iterable[Record]) -> list[tuple[float, Record]]:
    """The records that have a place, each with its tick, ascending."""
    pairs = [(tick, record) for record in records if (tick := tick_of(record)) is not None]
    return sorted(pairs, key=lambda pair: pair[0])


def line(records: Iterable[Record]) -> StyledLine:
    """The losses of ``records`` over their ticks."""
    pairs = placed(records)
    return StyledLine(
        tuple(tick for tick, _ in pairs), tuple(finite(record.get("loss")) for _, record in pairs)
    )


def smooth(losses: Sequence[float], width: int) -> tuple[float, ...]:
    """Means over up to ``width`` neighbours, half on each side, fewer at the ends. NaN counts for
    nothing."""
    sums, counts = [0.0], [0]
    for loss in losses:
        good = math.isfinite(loss)
        sums.append(sums[-1] + (loss if good else 0.0))
        counts.append(counts[-1] + good)
    means = []
    for place in range(len(losses)):
        low, high = max(0, place - width // 2), min(len(losses), place + width // 2 + 1)
        count = counts[high] - counts[low]
        means.append((sums[high] - sums[low]) / count if count else math.nan)
    return tuple(means)


def smooth_line(shown: StyledLine, width: int, breaks: Iterable[float]) -> StyledLine:
    """``shown`` smoothed, but never across a tick of ``breaks``, where the losses jump."""
    bounds = [0, *(bisect_left(shown.ticks, tick) for tick in sorted(breaks)), len(shown.ticks)]
    pieces = (smooth(shown.losses[low:high], width) for low, high in pairwise(bounds))
    return StyledLine(shown.ticks, tuple(chain.from_iterable(pieces)))


def rolled_back(iterations: Records) -> tuple[tuple[float, float], ...]:
    """Spans of ticks in which a rolled-back run trained iterations that it had trained before."""
    spans: list[tuple[float, float]] = []
    furthest = -math.inf
    for tick, record in placed(iterations):
        iteration = finite(record.get("iteration", tick))
        if iteration > furthest:
            furthest = iteration
        elif spans and spans[-1][1] == tick:
            spans[-1] = (spans[-1][0], tick + 1)
        else:
            spans.append((tick, tick + 1))
    return tuple(spans)


def iteration_at(iterations: Records, tick: float) -> int | None:
    """The iteration that ``tick`` trained, or the last before it; None: nothing was trained yet."""
    pairs = placed(iterations)
    place = bisect_right([at for at, _ in pairs], tick)
    value = finite(pairs[place - 1][1].get("iteration")) if place else math.nan
    return int(value) if math.isfinite(value) else None


def names(failure: Record) -> tuple[str, ...]:
    """What was lost: ``S2`` for a whole stage, ``2.1`` for a seat whose stage lived on."""
    stages = [str(stage) for stage in failure.get("stages") or ()]
    seats = [str(seat) for seat in failure.get("seats") or ()]
    return (*(f"S{s}" for s in stages), *(s for s in seats if s.split(".")[0] not in stages))


def jumps(recoveries: Records, validations: Records) -> tuple[Jump, ...]:
    """One per recovery, from its own figures or else from the validations around it."""
    regular = line(v for v in validations if not v.get("after_repair"))
    repaired = dict(placed(v for v in validations if v.get("after_repair")))
    found = {tick: _jump(tick, {}, reading, regular) for tick, reading in repaired.items()}
    for tick, recovery in placed(recoveries):
        found[tick] = _jump(tick, recovery, repaired.get(tick, {}), regular)
    return tuple(found[tick] for tick in sorted(found))


def _jump(tick: float, recovery: Record, reading: Record, regular: StyledLine) -> Jump:
    before, after = (
        finite(recovery.get(f"validation_{when}", recovery.get(when)))
        for when in ("before", "after")
    )
    place = bisect_right(regular.ticks, tick)
    earlier = [loss for loss in regular.losses[:place] if math.isfinite(loss)]
    if math.isnan(before) and earlier:
        before = earlier[-1]
    return Jump(tick, before, finite(reading.get("loss")) if math.isnan(after) else after)


def rules(recoveries: Records) -> str:
    """Which rules rebuilt how many seats, as they stand on the ladder: ``replay 3 (exact), shadow
    1``; what is of no ladder comes last. Of replays that came out with other bits it says so."""
    counts: Counter[str] = Counter()
    close: Counter[str] = Counter()
    for recovery in recoveries:
        rebuilds = recovery.get("rebuilds") or {}
        made = recovery.get("rules") or {
            seat: rebuild.get("rule", "?") for seat, rebuild in rebuilds.items()
        }
        counts.update(str(rule) for rule in made.values())
        close.update(r["rule"] for r in rebuilds.values() if APART in r.get("check", {}))
    ladder = {rule.name: place for place, rule in enumerate(LADDER)}
    ordered = sorted(counts.most_common(), key=lambda item: ladder.get(item[0], len(ladder)))
    found = []
    for rule, count in ordered:
        told = f" ({count - close[rule]} exact, {close[rule]} close)" if close[rule] else " (exact)"
        found.append(f"{rule} {count}{told if rule in EXACT else ''}")
    return ", ".join(found)


def labels(failures: Records, width_per_letter: float, low: float, high: float) -> list[Label]:
    """Names over the failures, neighbours joined until no two labels overlap.

    ``width_per_letter`` is in ticks; labels are moved into ``low`` … ``high``. Several failures
    under one label read ``S2 S4``, and ``7 losses`` once that would be long.
    """
    groups: list[Label] = []
    for tick, failure in placed(failures):
        label = _within(_label(tick, 1, names(failure), width_per_letter), low, high)
        while groups and groups[-1].x + groups[-1].half > label.x - label.half:
            label = _within(_join(groups.pop(), label, width_per_letter), low, high)
        groups.append(label)
    return groups


def _label(x: float, count: int, found: tuple[str, ...], width_per_letter: float) -> Label:
    distinct = tuple(dict.fromkeys(found))
    text = " ".join(distinct) or "lost"
    if len(distinct) > 3:
        text = f"{len(found)} losses"
    # One letter more than the text has, so that neighbours keep a gap.
    return Label(x, text, (len(text) + 1) * width_per_letter / 2, count, found)


def _join(left: Label, right: Label, width_per_letter: float) -> Label:
    count = left.count + right.count
    x = (left.x * left.count + right.x * right.count) / count
    return _label(x, count, left.names + right.names, width_per_letter)


def _within(label: Label, low: float, high: float) -> Label:
    return replace(label, x=max(low + label.half, min(label.x, high - label.half)))

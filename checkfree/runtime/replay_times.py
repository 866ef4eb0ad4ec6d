"""When each phase of a replay ended, by what the lead tells and when it came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from checkfree.core.live import ReplayProgress
from checkfree.core.records import APART, PlanRecord, RebuiltSeat, ReplayRecord
from checkfree.messages.control import Underway
from checkfree.recovery.rungs import REPLAY


@dataclass
class _Replay:
    """The replay of a seat, in seconds of a clock. A later loss may have it planned anew: what it
    had waited for by then counts, and what it had computed if it goes on from there."""

    told: ReplayProgress
    planned_at: float
    start: int = 0
    copied_at: float | None = None
    done_at: float | None = None


class ReplayTimes:
    """The phases of all replays from a loss to the first step after it."""

    def __init__(self) -> None:
        self._lost_at: float | None = None
        self._replays: dict[str, _Replay] = {}
        self._made: dict[str, RebuiltSeat] = {}

    def follow(self, told: Underway, now: float) -> tuple[ReplayProgress, ...]:
        """What is replayed, with the seconds that it has to go."""
        if not told.whole and self._lost_at is None:
            self._lost_at = now
        for found in told.replays:
            known = self._replays.setdefault(str(found.seat), _Replay(found, now))
            known.told = found
            if found.at is None:
                known.copied_at = known.done_at = None
            elif known.copied_at is None:
                known.copied_at, known.start = now, found.at
            if found.at == found.until and known.done_at is None:
                known.done_at = now
        return tuple(
            replace(found, seconds=_to_go(self._replays[str(found.seat)], now))
            for found in told.replays
        )

    def planned(self, record: PlanRecord) -> None:
        """A repair is over."""
        made = record.rebuilds.items()
        self._made |= {seat: how for seat, how in made if how.recipe.rule == REPLAY}

    def stepped(self, tick: int, now: float) -> list[ReplayRecord]:
        """All have, at that tick: of each seat that was replayed since the last time."""
        times = [(seat, self._replays[seat]) for seat in self._made if seat in self._replays]
        found = [
            ReplayRecord(
                iteration=known.told.until,
                tick=tick,
                seat=seat,
                base=known.told.base,
                start=known.start,
                bytes=self._made[seat].bytes,
                exact=known.told.checked and APART not in self._made[seat].check,
                seconds=self._phases(known, now),
                apart=self._made[seat].check.get(APART, 0.0),
            )
            for seat, known in sorted(times)
        ]
        self._lost_at, self._replays, self._made = None, {}, {}
        return found

    def _phases(self, known: _Replay, now: float) -> Mapping[str, float]:
        began = known.planned_at if self._lost_at is None else self._lost_at
        copied = known.planned_at if known.copied_at is None else known.copied_at
        done = copied if known.done_at is None else known.done_at
        ends = {"seat": known.planned_at, "copy": copied, "replay": done, "step": now}
        starts = [began, *ends.values()]
        return {name: end - start for start, (name, end) in zip(starts, ends.items(), strict=False)}


def _to_go(known: _Replay, now: float) -> float | None:
    at = known.told.at
    if at == known.told.until:
        return 0.0
    if at is None or known.copied_at is None or at <= known.start:
        return None
    return (now - known.copied_at) / (at - known.start) * (known.told.until - at)

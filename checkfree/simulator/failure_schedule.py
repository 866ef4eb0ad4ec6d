"""Which stages are lost before a tick, and when on the clock: from a trace, or from arrivals.

On the clock a loss falls into whatever is under way. In the midst of an iteration it costs what
was done of it; during a repair it counts for the next tick, as no tick is struck twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from checkfree.core.ops import Address


class FailureSchedule(Protocol):
    """Asked before every tick, and once more when its iteration's length is known."""

    def before(self, tick: int, now: float) -> Collection[Address]:
        """Seats that are lost by now and have not been told yet."""

    def during(self, tick: int, now: float, until: float) -> float | None:
        """When the iteration of this tick, under way from ``now`` to ``until``, is struck."""


@dataclass
class TickStrikes:
    """By tick, as a trace or a run's records have them: all before the tick's first op, once."""

    seats: Mapping[int, Collection[Address]]
    _struck: set[int] = field(default_factory=set)

    def before(self, tick: int, now: float) -> Collection[Address]:
        due = () if tick in self._struck else self.seats.get(tick, ())
        self._struck.add(tick)
        return due

    def during(self, tick: int, now: float, until: float) -> float | None:
        return None


@dataclass
class ClockStrikes:
    """Whole stages, by seconds since the start, without end (semantics 9)."""

    arrivals: Mapping[int, Iterator[float]]
    """Of each stage that may fail, ascending."""
    replicas: int
    first: int
    """No failure before this tick; what comes earlier never happened."""
    _next: dict[int, float] = field(default_factory=dict)
    _last_struck: int = -1

    def __post_init__(self) -> None:
        self._next = {stage: next(times, float("inf")) for stage, times in self.arrivals.items()}

    def before(self, tick: int, now: float) -> Collection[Address]:
        come = [stage for stage, when in self._next.items() if when <= now]
        if tick < self.first:
            self._draw(come, now)
            return ()
        if not come or tick == self._last_struck:
            return ()
        self._draw(come, now)
        self._last_struck = tick
        return tuple(Address(stage, r) for stage in sorted(come) for r in range(self.replicas))

    def during(self, tick: int, now: float, until: float) -> float | None:
        soonest = min(self._next.values(), default=float("inf"))
        struck_already = tick == self._last_struck or tick < self.first
        return None if struck_already or soonest >= until else soonest

    def _draw(self, stages: Sequence[int], now: float) -> None:
        for stage in stages:
            while self._next[stage] <= now:
                self._next[stage] = next(self.arrivals[stage], float("inf"))

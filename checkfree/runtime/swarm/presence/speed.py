"""Who makes everybody wait: the seconds that each seat computes in an iteration, beside those of
others with as much to do. Pure.

A pipeline is as fast as its slowest seat. Body stages are of one size, so their median tells what
an iteration should take; stage 0 does other work, so it is compared with the fastest that anybody
has been there. A seat is slow once all others together have waited for it longer than it takes to
have another node sit there: a hiccup is not worth a move.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from checkfree.ops import Address

Life = tuple[Address, int]

WINDOW = 5
"""Iterations over which busy seconds are counted: pulses tell them a few times a second."""
TIMES = 2.0
"""So many times the reference, or nobody is slow: nodes that share a machine differ by less."""
WORTH = 10.0
"""Seconds that others have to have waited: a hand-over takes one or two, and then an iteration that
was broken off is trained again."""


@dataclass(frozen=True)
class Slow:
    """A seat that the others wait for: ``seconds`` that it computes, per iteration, those that it
    ``should``, and those that everybody ``waits`` for it."""

    seat: Address
    seconds: float
    should: float
    waits: float


class Speeds:
    """``seconds``: of each seat, per iteration, as measured last."""

    def __init__(self) -> None:
        self.seconds: dict[Address, float] = {}
        self._marks: dict[Life, tuple[int, float]] = {}
        self._waited: dict[Life, float] = {}
        self._first: dict[int, float] = {}
        """Of each life of stage 0, what it took."""

    def measured(self, iteration: int, busy: Mapping[Life, float]) -> list[Slow]:
        """Seconds for which lives have computed so far, as the iteration is committed. Returns who
        is slow."""
        self._marks = {life: mark for life, mark in self._marks.items() if life in busy}
        self.seconds = {s: v for s, v in self.seconds.items() if any(s == b for b, _ in busy)}
        found = []
        for life, total in busy.items():
            since, before = self._marks.setdefault(life, (iteration, total))
            passed = iteration - since
            if passed < 0 or total < before:  # rolled back, or counted anew
                self._marks[life] = iteration, total
            elif passed >= WINDOW:
                self._marks[life] = iteration, total
                self.seconds[life[0]] = (total - before) / passed
                found.append((life, passed))
        return [slow for life, passed in found if (slow := self._judged(life, passed)) is not None]

    def _judged(self, life: Life, passed: int) -> Slow | None:
        seat, number = life
        seconds, should = self.seconds[seat], self._reference(seat, number)
        others = [value for other, value in self.seconds.items() if other != seat]
        waits = seconds - max(others, default=seconds)
        if should is None or waits <= 0 or seconds < TIMES * should:
            self._waited.pop(life, None)
            return None
        self._waited[life] = self._waited.get(life, 0.0) + waits * passed
        return Slow(seat, seconds, should, waits) if self._waited[life] > WORTH else None

    def _reference(self, seat: Address, number: int) -> float | None:
        """What others take for as much; None: there is nobody to compare it with."""
        if seat.stage == 0:
            self._first[number] = self.seconds[seat]
            others = [value for life, value in self._first.items() if life != number]
            return min(others, default=None)
        body = [value for other, value in self.seconds.items() if other.stage > 0]
        return median(body) if len(body) > 2 else None

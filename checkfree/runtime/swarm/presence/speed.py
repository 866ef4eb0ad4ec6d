"""Who makes everybody wait: the seconds that each seat computes in an iteration, and those for
which each node's line is taken, beside those of others with as much to do. Pure.

A pipeline is as fast as its slowest part. Body stages are of one size, so their median (of two the
faster) tells what an iteration should take; stage 0 does other work, so it is compared with the
fastest that anybody has been there. A line is a node's own if it is slow to and from whomever that
node talks to: of two that can talk to each other alone, nobody knows whose it is. A seat is slow
once all others together have waited for it longer than it takes to have another node sit there: a
hiccup is not worth a move.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median_low
from typing import Generic, TypeVar

from checkfree.core.ops import Address

Life = tuple[Address, int]
Direction = tuple[Life, Address]
"""From whom, and where to."""
Key = TypeVar("Key", bound=Hashable)

WINDOW, LASTS = 5, 5.0
"""Iterations, and seconds, over which is counted, at least: pulses tell twice a second, so what is
measured is right to a tenth."""
TIMES = 2.0
"""So many times the reference, or nobody is slow: nodes that share a machine differ by less."""
WORTH = 10.0
"""Seconds that others have to have waited: a hand-over takes one or two, and then an iteration that
was broken off is trained again."""


@dataclass(frozen=True)
class SeatTiming:
    """What a seat takes: ``seconds`` that it computes per iteration, or for which its node's
    ``line`` is taken; those that it ``should``, and those that everybody ``waits`` for it. ``slow``
    once that has cost enough."""

    seat: Address
    seconds: float
    should: float
    waits: float
    slow: bool
    line: bool = False

    def __str__(self) -> str:
        whose = "its line" if self.line else "it"
        what = f"{self.seconds:.2g} s, others {self.should:.2g} s"
        return f"everybody waits {self.waits:.2g} s an iteration for {whose} ({what})"


class PerIteration(Generic[Key]):
    """What grows, per iteration, over a window. ``rates``: as measured last."""

    def __init__(self) -> None:
        self.rates: dict[Key, float] = {}
        self._marks: dict[Key, tuple[int, float, float]] = {}

    def measured(self, iteration: int, now: float, totals: Mapping[Key, float]) -> dict[Key, int]:
        """What each has come to as the iteration is committed. Returns of which there is another
        rate now, and the iterations that it is of."""
        self._marks = {key: mark for key, mark in self._marks.items() if key in totals}
        self.rates = {key: rate for key, rate in self.rates.items() if key in totals}
        found = {}
        for key, total in totals.items():
            since, at, before = self._marks.setdefault(key, (iteration, now, total))
            passed = iteration - since
            if passed < 0 or total < before:  # rolled back, or counted anew
                self._marks[key] = iteration, now, total
            elif passed >= WINDOW and now - at >= LASTS:
                self._marks[key] = iteration, now, total
                self.rates[key] = (total - before) / passed
                found[key] = passed
        return found


class Speeds:
    """``seconds`` and ``lines``: of each seat and each node, per iteration, as measured last.
    ``travels``: for how long something is on its way from one seat to another."""

    def __init__(self) -> None:
        self.lines: dict[str, float] = {}
        self._busy, self._ways = PerIteration[Life](), PerIteration[Direction]()
        self._travels = PerIteration[Direction]()
        self._waited: dict[tuple[Life, bool], float] = {}
        self._first: dict[int, float] = {}
        """Of each life of stage 0, what it took."""

    @property
    def seconds(self) -> dict[Address, float]:
        return {seat: rate for (seat, _), rate in self._busy.rates.items()}

    @property
    def travels(self) -> dict[tuple[Address, Address], float]:
        return {(seat, to): rate for ((seat, _), to), rate in self._travels.rates.items()}

    def measured(
        self,
        iteration: int,
        now: float,
        busy: Mapping[Life, float],
        ways: Mapping[Direction, float] | None = None,
        nodes: Mapping[Address, str] | None = None,
        travels: Mapping[Direction, float] | None = None,
    ) -> list[SeatTiming]:
        """Seconds for which lives have computed, have taken the ways from them, and have had
        something on its way there, so far, as the iteration is committed, ``now``, in seconds of
        any clock; ``nodes``: who has which seat. Returns what there is to tell."""
        nodes = nodes or {}
        self._travels.measured(iteration, now, travels or {})
        computed = self._busy.measured(iteration, now, busy)
        crossed = self._ways.measured(iteration, now, ways or {})
        self.lines = _lines(self._ways.rates, nodes)
        found = [self._judged(life, passed, nodes) for life, passed in computed.items()]
        took = {life: passed for (life, _), passed in crossed.items()}
        found += [self._line_judged(life, took[life], nodes) for life in sorted(took)]
        return [measured for measured in found if measured is not None]

    def _judged(self, life: Life, passed: int, nodes: Mapping[Address, str]) -> SeatTiming | None:
        """A node that computes slowly also answers late, and its line seems to be taken for long;
        so neither is compared with the other."""
        seat, number = life
        seconds, should = self.seconds[seat], self._reference(seat, number)
        if should is None:
            return None
        lines = [value for node, value in self.lines.items() if node != nodes.get(seat)]
        others = [value for other, value in self.seconds.items() if other != seat]
        waits = seconds - max((*others, *lines), default=seconds)
        return self._told(life, seconds, should, waits, passed, line=False)

    def _line_judged(
        self, life: Life, passed: int, nodes: Mapping[Address, str]
    ) -> SeatTiming | None:
        """Of the first seat of each node, for all of them."""
        node = nodes.get(life[0])
        first = min((seat for seat, name in nodes.items() if name == node), default=None)
        if node not in self.lines or first != life[0]:
            return None
        seconds = self.lines[node]
        lines = [value for other, value in self.lines.items() if other != node]
        computes = [value for seat, value in self.seconds.items() if nodes.get(seat) != node]
        should = max((*lines, *computes), default=seconds)
        return self._told(life, seconds, should, seconds - should, passed, line=True)

    def _told(
        self, life: Life, seconds: float, should: float, waits: float, passed: int, *, line: bool
    ) -> SeatTiming:
        if waits <= 0 or seconds < TIMES * should:
            self._waited.pop((life, line), None)
            return SeatTiming(life[0], seconds, should, max(0.0, waits), False, line)
        waited = self._waited[life, line] = self._waited.get((life, line), 0.0) + waits * passed
        return SeatTiming(life[0], seconds, should, waits, waited > WORTH, line)

    def _reference(self, seat: Address, number: int) -> float | None:
        """What others take for as much; None: there is nobody to compare it with."""
        if seat.stage == 0:
            self._first[number] = self.seconds[seat]
            others = [value for life, value in self._first.items() if life != number]
            return min(others, default=None)
        body = [value for other, value in self.seconds.items() if other.stage > 0]
        return median_low(body) if len(body) > 1 else None


def _lines(ways: Mapping[Direction, float], nodes: Mapping[Address, str]) -> dict[str, float]:
    """For how long each node's line is taken: as long as the best of those to others is, in the
    direction that takes longer. Of nodes that talk to two others or more."""
    taken: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for one, other, seconds in _between(ways, nodes):
        for a, b in ((one, other), (other, one)):
            taken[a][b] = max(taken[a][b], seconds)
    return {node: min(to.values()) for node, to in taken.items() if len(to) > 1}


def _between(
    ways: Mapping[Direction, float], nodes: Mapping[Address, str]
) -> Iterator[tuple[str, str, float]]:
    """From which node to which other; seats of one node share its line."""
    total: defaultdict[tuple[str, str], float] = defaultdict(float)
    for ((seat, _), to), seconds in ways.items():
        one, other = nodes.get(seat), nodes.get(to)
        if one is not None and other is not None and one != other:
            total[one, other] += seconds
    for (one, other), seconds in total.items():
        yield one, other, seconds

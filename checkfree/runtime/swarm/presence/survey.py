"""What the lines between the machines of a swarm carry, as their members measure it when somebody
asks: one member at a time, so that nobody measures what another's probes take. Pure."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from checkfree.core.ops import Address

FRESH = 60.0
"""Seconds for which whoever asks is told what was measured for the last one."""
ANSWER_WITHIN = 6.0
"""Seconds that a member gets for each line."""
MOST_NAMES = 256
"""Machines: the table of all their pairs is a notice still."""

Ask = tuple[Address, list[str]]
"""Which seat is to measure the lines to which."""


class LinkSurvey:
    """``lines``: by (from, to), of machines in their order, seconds one way and bytes per second.
    Seats of which no machine is known are machines of their own."""

    def __init__(self) -> None:
        self.machines: tuple[tuple[str, tuple[Address, ...]], ...] = ()
        self.lines: dict[tuple[int, int], tuple[float, float]] = {}
        self._left: deque[int] = deque()
        self._asked: tuple[int, float] | None = None
        self._at: float | None = None
        """When it was done, by ``time.time``."""

    def begin(self, nodes: Mapping[Address, str]) -> None:
        """With the machine of each seat, unless it is under way, or these were done just now."""
        by: dict[str, list[Address]] = {}
        for seat, node in sorted(nodes.items()):
            by.setdefault(node, []).append(seat)
        first = sorted(by.items(), key=lambda item: item[1])[:MOST_NAMES]
        machines = tuple((name, tuple(seats)) for name, seats in first)
        fresh = self._at is not None and time.time() < self._at + FRESH
        if self._left or self._asked or (fresh and machines == self.machines):
            return
        self.machines, self.lines = machines, {}
        self._left, self._at = deque(range(len(machines))), None

    def next(self, now: float) -> Ask | None:
        """Who is to measure now; None: nobody, or somebody does. ``now``: of any clock."""
        if self._asked is not None:
            within = ANSWER_WITHIN * max(1, len(self.machines) - 1)
            if now < self._asked[1] + within:
                return None
            self._asked = None
        if not self._left:
            if self.machines and self._at is None:
                self._at = time.time()
            return None
        number = self._left.popleft()
        self._asked = number, now
        others = [seats[0] for n, (_, seats) in enumerate(self.machines) if n != number]
        return self.machines[number][1][0], [str(seat) for seat in others]

    def heard(self, seat: Address, told: Any) -> None:
        """What a member has measured; rubbish, and what nobody asked for, is nothing."""
        if self._asked is None or self.machines[self._asked[0]][1][0] != seat:
            return
        number, self._asked = self._asked[0], None
        for other, (_, seats) in enumerate(self.machines):
            line = told.get(str(seats[0])) if isinstance(told, dict) else None
            if other != number and (read := _line(line)) is not None:
                self.lines[number, other] = read

    def to_json(self) -> dict[str, Any]:
        """For whoever asks. ``at``: when it was done; None: it is under way."""
        return {
            "at": self._at,
            "machines": [[name, *map(str, seats)] for name, seats in self.machines],
            "lines": [[*way, *line] for way, line in sorted(self.lines.items())],
        }


def aged(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a survey has told, and how many seconds ago it was done; None: it is not."""
    at = told.get("at")
    return {**told, "age": None if at is None else max(0.0, time.time() - at)}


def _line(told: Any) -> tuple[float, float] | None:
    if not isinstance(told, Sequence) or len(told) != 2:
        return None
    latency, bandwidth = told
    good = all(type(value) is float and 0.0 <= value < 1e15 for value in told)
    return (round(latency, 6), round(bandwidth)) if good and bandwidth > 0 else None

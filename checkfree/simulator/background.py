"""Copies for replays on their way: they have what training leaves of each line, and no more.

A copy travels at the lowest priority, beside the iterations that follow. Nobody waits for it before
the iteration in which it is to count; what is missing then has the lines for itself.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from checkfree.messages.control import Push
from checkfree.simulator.fleet import Fleet, Line


@dataclass
class _OnItsWay:
    """A copy that takes ``left`` more seconds of an idle line."""

    order: Push
    left: float


@dataclass
class BackgroundCopies:
    """All copies of a run that are on their way. Those of one line go one after the other."""

    fleet: Fleet
    _lines: dict[Line, deque[_OnItsWay]] = field(default_factory=dict)

    def send(self, order: Push, count: int) -> None:
        """So many bytes of a copy are ready at its owner's."""
        owner, holder = order.keep.owner, order.keep.holder
        link = self.fleet.link(owner, holder)
        waiting = self._lines.setdefault(self.fleet.line(owner, holder), deque())
        waiting.append(_OnItsWay(order, link.seconds(count) + link.latency))

    def passed(self, seconds: float, busy: Mapping[Line, float]) -> list[Push]:
        """What arrived while so many seconds passed, in which each line was ``busy`` for some."""
        arrived = []
        for line, waiting in self._lines.items():
            free = max(0.0, seconds - busy.get(line, 0.0))
            while waiting and waiting[0].left <= free:
                free -= waiting[0].left
                arrived.append(waiting.popleft().order)
            if waiting:
                waiting[0].left -= free
        return arrived

    def next_arrival(self) -> float:
        """Seconds until one more is there, with nothing else on the lines; infinite if none is on
        its way."""
        return min(
            (waiting[0].left for waiting in self._lines.values() if waiting), default=math.inf
        )

    def drop(self, is_void: Callable[[Push], bool]) -> None:
        """Those that are not sent any further."""
        for line, waiting in self._lines.items():
            self._lines[line] = deque(one for one in waiting if not is_void(one.order))

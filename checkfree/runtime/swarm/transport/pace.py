"""How much may be on its way over a stream at once: so much that the line is used, and its queues
stay short, for whatever else is to cross it waits behind them (as LEDBAT, RFC 6817). Pure.

What crosses a line beside us, heartbeats first of all, is of other streams of the same connection;
below them nothing knows what goes first, and a kernel takes megabytes that a slow line hasn't.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from checkfree.runtime.swarm.transport.lanes import LARGEST_PIECE, PIECE, Lane

LEAST = 1 << 14
"""Bytes on their way at once, at least: a few milliseconds of any line that trains a model."""
SMALLER = 0.7
"""Factor on the window when the queue is too long; once in a round trip."""
FORGOTTEN_AFTER = 60.0
"""Seconds after which a line may have another length than the shortest that was measured."""


@dataclass(frozen=True)
class Claim:
    """What a lane may take of a line. ``target``: seconds of queueing that it may add; ``first``
    and ``most``: bytes on their way at once, to begin with and ever."""

    target: float
    first: int
    most: int


FOREGROUND = Claim(0.2, 1 << 16, 1 << 26)
"""What is trained on, and what is waited for: a queue as long as a tenth of the shortest patience,
and as much as fills 1 Gbit over 250 ms. It begins with small pieces: the shortest way is to be that
of one, and not the time that a slow line takes for many."""
BACKGROUND = Claim(0.025, LEAST, 1 << 23)
"""What nobody waits for: what is said between two iterations crosses the lead's line three times or
four. As much as fills 1 Gbit over 60 ms."""


class Window:
    """Of one lane of one stream. Pieces are acknowledged in the order in which they were sent.
    ``seconds``: for how long they have had the line for themselves; ``under_way``: for how long one
    of them, at least, was on its way or its acknowledgement was."""

    def __init__(self, claim: Claim = BACKGROUND):
        self._claim, self._window = claim, float(claim.first)
        self._sent: deque[tuple[float, int]] = deque()
        self._out = 0
        self.seconds = self.under_way = 0.0
        self._since = 0.0
        self._smaller_at = float("-inf")
        self._least: deque[tuple[float, float]] = deque()
        """(when, seconds): shortest ways so far, ascending in both."""

    @property
    def room(self) -> int:
        """Bytes to send now as one: several such have to be on their way for a line to be busy."""
        piece = max(LEAST, int(self._window) // 4)
        return piece if self._out + piece <= self._window or not self._out else 0

    def sent(self, now: float, count: int) -> None:
        """So many bytes have left."""
        if not self._sent:
            self._since = now
        self._sent.append((now, count))
        self._out += count

    def acknowledged(self, now: float, last: float = float("-inf")) -> None:
        """The first of those that were on their way is there; ``last``: when one was before it, of
        whatever lane."""
        if not self._sent:
            return  # nobody of ours
        at, count = self._sent.popleft()
        self._out -= count
        if not self._sent:
            self.under_way += now - self._since
        shortest = self._shortest(now, now - at)
        self.seconds += now - max(last, at + shortest)
        queued = (now - at) - shortest
        if queued <= self._claim.target:
            wider = self._window + count * (1 - queued / self._claim.target)
            self._window = min(self._claim.most, wider)
        elif at >= self._smaller_at:  # it was sent after the window was made smaller
            self._window = max(LEAST, self._window * SMALLER)
            self._smaller_at = now

    def _shortest(self, now: float, seconds: float) -> float:
        """The shortest way of the last while."""
        while self._least and self._least[-1][1] >= seconds:
            self._least.pop()
        self._least.append((now, seconds))
        while self._least[0][0] < now - FORGOTTEN_AFTER:
            self._least.popleft()
        return self._least[0][1]


class Flow:
    """What is on its way over one stream, of all its lanes. Of ``control`` all may be."""

    local = False
    """The stream is a kernel's, which takes no more than it has room for; and no line."""

    def __init__(self) -> None:
        claims = {Lane.DATA: FOREGROUND, Lane.STATE: FOREGROUND, Lane.BACKGROUND: BACKGROUND}
        self._paces = {lane: Window(claim) for lane, claim in claims.items()}
        self._sent: deque[Lane] = deque()
        self._last = float("-inf")

    def room(self, lane: Lane) -> int:
        """Bytes of a lane to send now as one piece; 0: none, until one is acknowledged."""
        if self.local:
            return LARGEST_PIECE
        pace = self._paces.get(lane)
        return PIECE if pace is None else min(LARGEST_PIECE, pace.room)

    def sent(self, now: float, lane: Lane, count: int) -> None:
        """A piece has left."""
        if lane in self._paces:
            self._sent.append(lane)
            self._paces[lane].sent(now, count)

    def acknowledged(self, now: float) -> None:
        """The first of those that were on their way is there."""
        if self._sent:
            self._paces[self._sent.popleft()].acknowledged(now, self._last)
            self._last = now

    @property
    def trains(self) -> float:
        """Seconds for which the line was taken by what is trained on."""
        return self._paces[Lane.DATA].seconds

    @property
    def under_way(self) -> float:
        """Seconds for which something of that was on its way, latency included."""
        return self._paces[Lane.DATA].under_way

"""How much of what nobody waits for may be on its way at once: so much that a line is used, and
its queues stay short, so that others on it are not held up (as LEDBAT, RFC 6817). Pure.
"""

from __future__ import annotations

from collections import deque

TARGET = 0.025
"""Seconds of queueing that the background may add to a line: what is said between two iterations
crosses the lead's line three times or four."""
LEAST, MOST = 1 << 14, 1 << 23
"""Bytes on their way at once. A window of a few milliseconds on any line that trains a model, and
as much as fills 1 Gbit over 60 ms."""
SMALLER = 0.7
"""Factor on the window when the queue is longer than that."""
FORGOTTEN_AFTER = 60.0
"""Seconds after which a line may have another length than the shortest that was measured."""


class Pace:
    """Of one direction between two processes. Pieces are acknowledged in the order in which they
    were sent."""

    def __init__(self) -> None:
        self._window = float(LEAST)
        self._sent: deque[tuple[float, int]] = deque()
        self._out = 0
        self._least: deque[tuple[float, float]] = deque()
        """(when, seconds): shortest ways so far, ascending in both."""

    @property
    def room(self) -> int:
        """Bytes to send now as one: several such have to be on their way for a line to be busy."""
        piece = max(LEAST, int(self._window) // 4)
        return piece if self._out + piece <= self._window or not self._out else 0

    def sent(self, now: float, count: int) -> None:
        """So many bytes have left."""
        self._sent.append((now, count))
        self._out += count

    def acknowledged(self, now: float) -> None:
        """The first of those that were on their way is there."""
        if not self._sent:
            return  # nobody of ours
        at, count = self._sent.popleft()
        self._out -= count
        queued = (now - at) - self._shortest(now, now - at)
        if queued > TARGET:
            self._window = max(LEAST, self._window * SMALLER)
        else:
            self._window = min(MOST, self._window + count * (1 - queued / TARGET))

    def _shortest(self, now: float, seconds: float) -> float:
        """The shortest way of the last while."""
        while self._least and self._least[-1][1] >= seconds:
            self._least.pop()
        self._least.append((now, seconds))
        while self._least[0][0] < now - FORGOTTEN_AFTER:
            self._least.popleft()
        return self._least[0][1]

"""How far other seats are, and how much the lines to them carry: by notices that they answer.

Small ones tell the way there and back, of which each way is taken as half. Larger ones, each twice
the one before, until the line was taken for long enough to be measured: what that took beyond the
small ones' way is the time of their bytes. Heartbeats wait behind a probe, so none takes longer
than a small part of the shortest patience on a line that could train anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count

from checkfree.core.ops import Address
from checkfree.runtime.swarm.transport.frames import Notice

TRIPS = 5
"""Small notices, of which the fastest counts."""
FIRST, LARGEST = 1 << 12, 1 << 19
"""Bytes of one that is to fill the line; below what a notice may have."""
MOST = 1 << 22
"""Bytes sent at once, at most, in several notices: 1 Gbit takes 30 ms for them. With all before
it, twice as many."""
LONG = 0.1
"""Seconds that the line was taken, after which nothing larger is sent."""
TICK = 1e-4
"""Seconds below which nothing is told apart here."""
ANSWER_WITHIN = 5.0  # seconds


class Prober:
    """``notify`` sends a notice to a seat. Everything happens in one event loop."""

    def __init__(self, notify: Callable[[Address, Notice], None]):
        self._notify, self._numbers = notify, count()
        self._waiting: dict[tuple[Address, int], asyncio.Future[None]] = {}

    def answered(self, seat: Address, number: int) -> None:
        """A probe is there."""
        waiting = self._waiting.pop((seat, number), None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def measure(self, seats: Sequence[Address]) -> dict[str, list[float]]:
        """By seat, seconds one way and bytes per second of the line there, one after the other;
        whoever doesn't answer is left out."""
        found = {}
        for seat in seats:
            with suppress(asyncio.TimeoutError):
                found[str(seat)] = list(await self._line(seat))
        self._waiting.clear()
        return found

    async def _line(self, seat: Address) -> tuple[float, float]:
        await self._takes(seat, 0)  # opens the stream, if nothing was said yet
        trip = min([await self._takes(seat, 0) for _ in range(TRIPS)])
        total = FIRST
        while True:
            size = min(total, LARGEST)
            seconds = await self._takes(seat, size, total // size) - trip
            if seconds >= LONG or total >= MOST:
                return trip / 2, total / max(seconds, TICK)
            total *= 2

    async def _takes(self, seat: Address, size: int, times: int = 1) -> float:
        """Seconds until so many probes of so many bytes are there, and it is known."""
        loop, since, last = asyncio.get_running_loop(), time.monotonic(), 0
        for _ in range(times):
            last = next(self._numbers)
            self._notify(seat, {"probe": last, "pad": "." * size})
        answer = self._waiting[seat, last] = loop.create_future()
        await asyncio.wait_for(answer, ANSWER_WITHIN)
        return time.monotonic() - since

"""One time for all members of a run, whatever the clocks of their machines say.

What the DHT stores runs out at a time of day, and hivemind takes that time from each machine's own
clock: with clocks apart by more than a record holds, nobody finds anybody. So members go by a time
of their own. Whoever comes asks who is there already, and counts on by its monotonic clock; the
first, which is the lead, begins with its clock as that is. A clock that is wrong, or that is put
right in the middle of a run, changes nothing.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import struct
import time
from collections.abc import Sequence

from hivemind.dht import node, protocol, routing
from hivemind.utils import timed_storage

from checkfree.runtime.swarm.transport.addresses import Place
from checkfree.runtime.swarm.transport.frames import BadFrame
from checkfree.runtime.swarm.transport.outbound import BROKEN_STREAM
from checkfree.runtime.swarm.transport.streams import Endpoint

CLOCK_PROTOCOL = "checkfree-clock"
ANSWER_WITHIN = 1.0  # seconds
_TIME = struct.Struct(">d")


class SwarmClock:
    """Seconds since 1970, as those who are there have agreed upon. hivemind goes by the newest of
    a process."""

    def __init__(self, endpoint: Endpoint):
        self._endpoint = endpoint
        self._ahead = time.time() - time.monotonic()
        for module in (timed_storage, routing, protocol, node):
            module.get_dht_time = self.now

    def now(self) -> float:
        return time.monotonic() + self._ahead

    async def serve(self) -> None:
        """Tell it to whoever asks."""
        await self._endpoint.offer(CLOCK_PROTOCOL, self._tell)

    async def agree(self, places: Sequence[Place]) -> None:
        """Take the time of these; of several the middle one. Nobody answers: ours stays."""
        found = await asyncio.gather(*map(self._ahead_of, places))
        known = [ahead for ahead in found if ahead is not None]
        if known:
            self._ahead = statistics.median_low(known)

    async def _ahead_of(self, place: Place) -> float | None:
        """How far the time there is ahead of our monotonic clock."""
        since = time.monotonic()
        try:
            told = await asyncio.wait_for(self._asked(place), ANSWER_WITHIN)
        except (*BROKEN_STREAM, BadFrame):
            return None
        return told - (since + time.monotonic()) / 2

    async def _asked(self, place: Place) -> float:
        reader, writer = await self._endpoint.call(place.id, place.addresses, CLOCK_PROTOCOL)
        try:
            told: float = _TIME.unpack(await reader.readexactly(_TIME.size))[0]
            if not math.isfinite(told):
                raise BadFrame(f"no time: {told}")
            return told
        finally:
            writer.close()

    async def _tell(
        self, id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(_TIME.pack(self.now()))
        await writer.drain()

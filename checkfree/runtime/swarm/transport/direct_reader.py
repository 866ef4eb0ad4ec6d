"""What comes over a stream, read by the kernel straight into the memory that it is for.

asyncio's StreamReader copies each byte four times on its way to there: out of the loop's buffer,
into its own, out of that, and into the message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

AHEAD = 1 << 12
"""Bytes that are read with one call, if fewer are wanted: notices, and heads of pieces."""


class DirectReader(asyncio.BufferedProtocol):
    """The reading end of a stream, for one reader at a time. ``heard`` is called as bytes come.

    While bytes are wanted none wait here; of what nobody has asked for yet ``AHEAD`` bytes wait
    here, and all others in the kernel."""

    def __init__(self, transport: asyncio.Transport, early: bytes, heard: Callable[[], None]):
        self._transport, self._heard = transport, heard
        self._ahead = memoryview(bytearray(max(AHEAD, len(early))))
        self._ahead[: len(early)] = early
        self._start, self._end = 0, len(early)
        self._wanted = memoryview(bytearray())
        self._reader: asyncio.Future[None] | None = None
        self._paused = True
        self._over: Exception | None = None

    @classmethod
    async def taking_over(
        cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: Callable[[], None]
    ) -> DirectReader:
        """From a StreamReader, with what that has read. Raises ConnectionResetError if its stream
        is closed."""
        transport: Any = writer.transport
        if transport.is_closing():
            raise ConnectionResetError("the stream is closed")
        transport.pause_reading()  # a loop asks once, when it begins to read, how to
        reader.feed_eof()
        made = cls(transport, await reader.read(), heard)  # without a wait: its end is there
        transport.pause_reading()
        transport.set_protocol(made)
        return made

    async def exactly(self, count: int) -> bytes:
        """So many bytes. Raises EOFError or OSError if the stream ends before."""
        data = bytearray(count)
        await self.fill(memoryview(data))
        return bytes(data)

    async def fill(self, memory: memoryview) -> None:
        """Bytes for all of ``memory``. Raises EOFError or OSError if the stream ends before."""
        self._wanted = memory
        self._give()
        if not self._wanted:
            return
        if self._over is not None:
            raise self._over
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._wanted, self._reader = memoryview(bytearray()), None

    def _give(self) -> None:
        """What is wanted of what is here."""
        count = min(len(self._wanted), self._end - self._start)
        self._wanted[:count] = self._ahead[self._start : self._start + count]
        self._wanted = self._wanted[count:]
        self._start += count
        if self._start == self._end:
            self._start = self._end = 0

    # --- from the loop ---------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        if len(self._wanted) >= AHEAD:
            return self._wanted
        return self._ahead[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        self._heard()
        if len(self._wanted) >= AHEAD:
            self._wanted = self._wanted[nbytes:]
        else:
            self._end += nbytes
            self._give()
        if not self._wanted and self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        if self._end == len(self._ahead):
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._ended(EOFError("the stream ended"))
        return True  # whoever reads closes it

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(exc or EOFError("the stream ended"))

    def _ended(self, why: Exception) -> None:
        self._over = self._over or why
        if self._reader is not None and not self._reader.done():
            self._reader.set_exception(self._over)

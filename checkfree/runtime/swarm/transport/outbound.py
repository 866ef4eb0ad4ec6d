"""What one seat sends to one life of another, in order, over a stream of its own.

When the stream breaks, what was under way is lost and it stays broken: the runtime hears of it,
and a newer life of the peer gets a new one. A stream that ends tells, faster than any lease, that
its sender is gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress

from hivemind.p2p import P2PDaemonError

from checkfree.runtime.swarm.transport.frames import Peer
from checkfree.runtime.swarm.transport.links import Line, Passage

Parts = Sequence[bytes | memoryview]
Dial = Callable[[Peer], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
"""Opens a stream that has said hello; raises one of BROKEN_STREAM."""
Broken = Callable[[Peer, str], None]
"""Told that what goes to a peer arrives no more, and why."""

CHUNK = 1 << 18  # bytes written before the stream may push back
SMALL = 1 << 12  # bytes of a part that is rather copied than written alone

BROKEN_STREAM = (OSError, EOFError, P2PDaemonError, asyncio.TimeoutError)


class Outbound:
    """What goes to one life of a peer."""

    def __init__(self, peer: Peer, line: Line | None, dial: Dial, broken: Broken):
        self.peer, self._line, self._dial, self._tell = peer, line, dial, broken
        self._queue: asyncio.Queue[tuple[Parts, Passage | None]] = asyncio.Queue()
        self._broken = False
        self._task = asyncio.get_running_loop().create_task(self._run())

    def put(self, parts: Parts) -> None:
        if not self._broken:
            self._queue.put_nowait((parts, self._enter(parts)))

    def _enter(self, parts: Parts) -> Passage | None:
        """When it may arrive, if lines are emulated."""
        if self._line is None:
            return None
        return self._line.enter(time.monotonic(), sum(map(len, parts)))

    def cancel(self) -> None:
        self._broken = True
        self._task.cancel()

    async def flushed(self) -> None:
        joined = asyncio.ensure_future(self._queue.join())
        await asyncio.wait((joined, self._task), return_when=asyncio.FIRST_COMPLETED)
        joined.cancel()

    async def _run(self) -> None:
        writer, ended = None, None
        first = await self._queue.get()  # a stream is opened when there is something to say
        try:
            reader, writer = await self._dial(self.peer)
            ended = asyncio.ensure_future(self._until_it_ends(reader))
            await self._write(writer, *first)
            while True:
                await self._write(writer, *await self._queue.get())
        except BROKEN_STREAM as error:
            self._broken = True
            self._tell(self.peer, repr(error)[:200])
        finally:
            if ended is not None:
                ended.cancel()
            if writer is not None:
                with suppress(*BROKEN_STREAM):
                    writer.close()

    async def _write(
        self, writer: asyncio.StreamWriter, parts: Parts, passage: Passage | None
    ) -> None:
        sent = 0
        for chunk in _chunks(parts):
            if passage is not None:
                sent += len(chunk)
                await _until(passage.due(sent))
            writer.write(chunk)
            if len(chunk) == CHUNK:
                await writer.drain()
        await writer.drain()
        self._queue.task_done()

    async def _until_it_ends(self, reader: asyncio.StreamReader) -> None:
        """The other side never writes: a byte or an end, the link is over."""
        with suppress(*BROKEN_STREAM):
            await reader.read(1)
        if not self._broken:
            self._broken = True
            self._tell(self.peer, "the stream ended")
            self._task.cancel()


async def _until(due: float) -> None:
    """By ``time.monotonic``: the loop's own clock counts whole milliseconds, and its timers end
    too early by as much."""
    while (left := due - time.monotonic()) > 0:
        await asyncio.sleep(left)


def _chunks(parts: Parts) -> Iterator[bytes | memoryview]:
    """Small parts together, as each write is a system call; large ones in pieces, uncopied."""
    small: list[bytes | memoryview] = []
    for part in parts:
        if len(part) <= SMALL:
            small.append(part)
            continue
        if small:
            yield b"".join(small)
            small = []
        view = memoryview(part)
        yield from (view[start : start + CHUNK] for start in range(0, len(view), CHUNK))
    if small:
        yield b"".join(small)

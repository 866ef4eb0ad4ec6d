"""What one seat sends to one life of another: two streams, and what goes first on each.

When a stream breaks, what was under way is lost and the link stays broken: the runtime hears of it,
and a newer life of the peer gets a new one. A stream that ends tells, faster than any lease, that
its sender is gone.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from hivemind.p2p import P2PDaemonError

from checkfree.core.ops import Address
from checkfree.runtime.swarm.transport.frames import ACK, Peer, piece_frame
from checkfree.runtime.swarm.transport.lanes import MOST_BEHIND, Lane, Parts, Piece, Pieces
from checkfree.runtime.swarm.transport.links import EmulatedLine
from checkfree.runtime.swarm.transport.pace import Flow


@dataclass(frozen=True)
class Opened:
    """A stream to a peer. ``local``: of one machine, without a network between."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    local: bool = False


Dial = Callable[[Peer, str], Awaitable[Opened]]
"""Opens a stream of that name, which has said hello; raises one of BROKEN_STREAM."""
Broken = Callable[[Peer, str], None]
"""Told that what goes to a peer arrives no more, and why."""
Drained = Callable[[Peer], None]
"""Told that ``MOST_BEHIND`` or less waits for a link, after more did."""

CONTROL, DATA = "control", "data"
"""The two streams."""
SMALL = 1 << 12  # bytes of a part that is rather copied than written alone

BROKEN_STREAM = (OSError, EOFError, P2PDaemonError, asyncio.TimeoutError)


class Outbound:
    """What goes to one life of a peer."""

    def __init__(
        self, peer: Peer, line: EmulatedLine | None, dial: Dial, broken: Broken, drained: Drained
    ):
        self.peer, self._tell, self._broken = peer, broken, False
        self._control, self._data = (
            Sender(line, partial(dial, peer, name), self._fail, partial(drained, peer))
            for name in (CONTROL, DATA)
        )

    def notify(self, frame: bytes) -> None:
        """A notice, as a whole frame."""
        if not self._broken:
            self._control.pieces.notices.append(frame)
            self._control.wake()

    def put(self, lane: Lane, to: Address, parts: Parts) -> None:
        """A message to an actor there."""
        if not self._broken:
            sender = self._control if lane is Lane.CONTROL else self._data
            sender.pieces.put(lane, to, parts)
            sender.wake()

    @property
    def behind(self) -> int:
        """Bytes of what is trained on, of all messages of which nothing has left."""
        return self._data.pieces.behind[Lane.DATA]

    @property
    def trains(self) -> float:
        """Seconds for which the line there was taken by what is trained on."""
        return self._data.flow.trains

    @property
    def under_way(self) -> float:
        """Seconds for which something of that was on its way there."""
        return self._data.flow.under_way

    def cancel(self) -> None:
        self._broken = True
        for sender in (self._control, self._data):
            sender.cancel()

    async def flushed(self) -> None:
        """All that was put here has left, or never will."""
        for sender in (self._control, self._data):
            await sender.flushed()

    def _fail(self, why: str) -> None:
        if not self._broken:
            self.cancel()
            self._tell(self.peer, why)


@dataclass
class _Travelling:
    """On an emulated line: what arrives when."""

    due: float
    piece: Piece


class Sender:
    """One stream, opened when there is something to say."""

    def __init__(
        self,
        line: EmulatedLine | None,
        dial: Callable[[], Awaitable[Opened]],
        broken: Callable[[str], None],
        drained: Callable[[], None],
    ):
        self._line, self._dial, self._tell, self._drained = line, dial, broken, drained
        self.pieces, self.flow = Pieces(), Flow()
        self._writing = 0
        self._awake, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._late: deque[_Travelling] = deque()
        self._arriving = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def wake(self) -> None:
        """Something was put among the pieces."""
        self._idle.clear()
        self._awake.set()

    def cancel(self) -> None:
        left, self.pieces = self.pieces.behind[Lane.DATA], Pieces()
        self._idle.set()
        self._task.cancel()
        self._tell_drained(left)

    def _tell_drained(self, before: int) -> None:
        """If it was full when so many bytes waited."""
        if before > MOST_BEHIND >= self.pieces.behind[Lane.DATA]:
            self._drained()

    async def flushed(self) -> None:
        await self._idle.wait()

    async def _run(self) -> None:
        writer, others = None, list[asyncio.Future[None]]()
        await self._awake.wait()
        try:
            opened = await self._dial()
            writer, self.flow.local = opened.writer, opened.local
            others.append(asyncio.ensure_future(self._hear(opened.reader)))
            if self._line is not None:
                others.append(asyncio.ensure_future(self._deliver(writer)))
            while True:
                piece = await self._next()
                if self._line is None:
                    await self._write(writer, piece)
                else:
                    due = self._line.enter(time.monotonic(), piece.size).due(piece.size)
                    self._late.append(_Travelling(due, piece))
                    self._arriving.set()
        except BROKEN_STREAM as error:
            self._tell(in_short(error))
        finally:
            for other in others:
                other.cancel()
            if writer is not None:
                with suppress(*BROKEN_STREAM):
                    writer.close()

    async def _next(self) -> Piece:
        """What goes first, once the line is free for it."""
        while True:
            if self._line is not None:
                await _until(self._line.free)
            behind = self.pieces.behind[Lane.DATA]
            piece = self.pieces.take(self.flow.room)
            self._tell_drained(behind)
            if piece is not None:
                self._writing += 1
                if piece.lane is not None:
                    self.flow.sent(time.monotonic(), piece.lane, piece.size)
                return piece
            if not self.pieces and not self._writing:
                self._idle.set()
            self._awake.clear()
            await self._awake.wait()

    async def _write(self, writer: asyncio.StreamWriter, piece: Piece) -> None:
        parts: Sequence[bytes | memoryview] = piece.parts
        if piece.lane is not None:
            parts = (piece_frame(piece.lane, piece.to, piece.size), *parts)
        for chunk in _joined(parts):
            writer.write(chunk)
        await writer.drain()
        self._writing -= 1

    async def _deliver(self, writer: asyncio.StreamWriter) -> None:
        """What has come to the end of an emulated line."""
        try:
            while True:
                while not self._late:
                    self._arriving.clear()
                    self._awake.set()  # nothing is on its way, perhaps nothing is left
                    await self._arriving.wait()
                await _until(self._late[0].due)
                await self._write(writer, self._late.popleft().piece)
        except BROKEN_STREAM as error:
            self._tell(in_short(error))

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        """The other side says that it has a piece, and nothing else: when that ends, the link is
        over."""
        with suppress(*BROKEN_STREAM):
            while await reader.readexactly(1) == ACK:
                self.flow.acknowledged(time.monotonic())
                self._awake.set()
        self._tell("the stream ended")


async def _until(due: float) -> None:
    """By ``time.monotonic``: the loop's own clock counts whole milliseconds, and its timers end
    too early by as much."""
    while (left := due - time.monotonic()) > 0:
        await asyncio.sleep(left)


def _joined(parts: Parts) -> Iterator[bytes | memoryview]:
    """Small parts together, as each write is a system call; large ones uncopied."""
    small: list[bytes | memoryview] = []
    for part in parts:
        if len(part) <= SMALL:
            small.append(part)
            continue
        if small:
            yield b"".join(small)
            small = []
        yield part
    if small:
        yield b"".join(small)


def in_short(error: BaseException) -> str:
    """What libp2p says in several lines, in a few words."""
    if isinstance(error, EOFError):
        return "cut short"
    words = " ".join(str(error).split()).rpartition("] ")[2]
    if "peer id mismatch" in words:
        return "whoever answers there has another id: the address is of a process that is gone"
    return words[:120].rstrip(")") or type(error).__name__

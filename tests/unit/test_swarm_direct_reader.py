"""Bytes that come in any pieces, and are asked for in any others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkfree.runtime.swarm.transport.direct_reader import AHEAD, DirectReader


class Stream:
    """What a loop has of a stream: the bytes that its kernel holds, and whether it is read."""

    def __init__(self, data: bytes):
        self.left, self.reading, self.longest_read = data, False, 0

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def give(self, reader: DirectReader, most: int) -> int:
        """So many bytes at most, as a loop reads them."""
        if not self.reading:
            return 0
        room = reader.get_buffer(-1)
        chunk = self.left[: min(most, len(room))]
        room[: len(chunk)] = chunk
        self.left = self.left[len(chunk) :]
        self.longest_read = max(self.longest_read, len(chunk))
        if chunk:
            reader.buffer_updated(len(chunk))
        return len(chunk)


sizes = st.lists(st.sampled_from([1, 11, 100, AHEAD - 1, AHEAD, AHEAD + 1, 9000]), max_size=6)


chunks_read = st.lists(st.sampled_from([1, 11, 700, AHEAD, 20_000]), max_size=6)


@given(asked=sizes, chunks=chunks_read.map(lambda some: [*some, 3000]), early=st.integers(0, 9000))
def test_every_byte_comes_once_and_in_order(
    asked: Sequence[int], chunks: Sequence[int], early: int
) -> None:
    total = sum(asked)
    data = bytes(index % 251 for index in range(total + 3 * AHEAD))

    async def read() -> tuple[bytes, Stream]:
        stream: Any = Stream(data[early:])
        reader, turn = DirectReader(stream, data[:early], lambda: None), 0

        def feed() -> None:
            """Again and again, until nobody wants more: then no more is taken than has room."""
            nonlocal turn
            while stream.give(reader, chunks[turn % len(chunks)]):
                turn += 1

        found = []
        for count in asked:
            asking = asyncio.ensure_future(reader.exactly(count))
            while not asking.done():
                await asyncio.sleep(0)
                feed()
            found.append(asking.result())
        return b"".join(found), stream

    found, stream = asyncio.run(read())
    assert found == data[:total]
    assert len(data) - len(stream.left) <= total + max(AHEAD, early)


def test_what_is_large_is_read_to_where_it_belongs() -> None:
    async def read() -> None:
        stream: Any = Stream(bytes(1 << 20))
        reader, memory = DirectReader(stream, b"", lambda: None), memoryview(bytearray(1 << 20))
        filling = asyncio.ensure_future(reader.fill(memory))
        await asyncio.sleep(0)
        stream.give(reader, 1 << 20)
        await filling
        assert stream.longest_read == len(memory)

    asyncio.run(read())


@pytest.mark.parametrize("end", ["eof", "lost"])
def test_a_stream_that_ends_gives_what_it_has_and_then_fails(end: str) -> None:
    async def read() -> None:
        stream: Any = Stream(b"")
        reader = DirectReader(stream, b"abc", lambda: None)
        asking = asyncio.ensure_future(reader.exactly(5))
        await asyncio.sleep(0)
        if end == "eof":
            assert reader.eof_received()  # whoever reads is to close it
        else:
            reader.connection_lost(None)
        with pytest.raises(EOFError):
            await asking
        with pytest.raises(EOFError):
            await reader.exactly(1)

    asyncio.run(read())


def test_who_gave_up_asking_gets_nothing_written_to_its_memory() -> None:
    async def read() -> None:
        stream: Any = Stream(b"x" * 10)
        reader, memory = DirectReader(stream, b"", lambda: None), memoryview(bytearray(5))
        filling = asyncio.ensure_future(reader.fill(memory))
        await asyncio.sleep(0)
        filling.cancel()
        await asyncio.sleep(0)
        stream.give(reader, 10)
        assert bytes(memory) == bytes(5)
        assert await reader.exactly(10) == b"x" * 10

    asyncio.run(read())

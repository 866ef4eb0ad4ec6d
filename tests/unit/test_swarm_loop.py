"""A stream that is forgotten in another thread than its loop's."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("hivemind") is None:
    pytest.skip("hivemind is not installed", allow_module_level=True)

from checkfree.runtime.swarm.transport.loop import Loop

WITHIN = 30.0


class Streams:
    """A caller and a callee that says more than anybody reads, in a loop of another thread."""

    def __init__(self, path: str):
        self.loop, self.path = Loop(), path
        self.served: list[asyncio.StreamWriter] = []
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.server: Any = self.ask(asyncio.start_unix_server(self._serve, path))

    def ask(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(WITHIN)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.served.append(writer)
        writer.write(bytes(1 << 22))

    async def call(self) -> asyncio.StreamWriter:
        """Answered."""
        before = len(self.served)
        _, writer = await asyncio.open_unix_connection(self.path)
        while len(self.served) == before:
            await asyncio.sleep(0.001)
        return writer

    async def end(self) -> None:
        self.server.close()
        for writer in self.served:
            writer.close()


@pytest.fixture
def streams(tmp_path: Path) -> Iterator[Streams]:
    made = Streams(str(tmp_path / "socket"))
    yield made
    made.ask(made.end())
    made.loop.call_soon_threadsafe(made.loop.stop)


@pytest.mark.parametrize("caller", [True, False])
def test_it_is_closed_in_the_thread_of_its_loop(streams: Streams, caller: bool) -> None:
    writer = streams.ask(streams.call())
    transport: Any = writer.transport if caller else streams.served[0].transport
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        release.wait(WITHIN)

    streams.loop.call_soon_threadsafe(hold)
    assert held.wait(WITHIN)
    transport.close()  # as a StreamWriter that is collected does, from Python 3.11.5 on
    before = transport.is_closing()
    release.set()
    streams.ask(asyncio.sleep(0))
    assert (before, transport.is_closing()) == (False, True)
    streams.loop.call_soon_threadsafe(writer.close)


def test_one_that_is_open_is_kept_and_one_that_was_closed_is_not(streams: Streams) -> None:
    writer = streams.ask(streams.call())
    ends: list[Any] = [writer.transport, streams.served[0].transport]
    kept = {end._transport for end in ends}
    assert kept <= streams.loop._open

    async def close_both_and_call() -> asyncio.StreamWriter:
        for end in ends:
            end.close()
        return await streams.call()

    other = streams.ask(close_both_and_call())
    assert not kept & streams.loop._open
    streams.loop.call_soon_threadsafe(other.close)


def test_a_closed_stream_is_a_broken_one(streams: Streams) -> None:
    writer = streams.ask(streams.call())

    async def closed() -> None:
        writer.close()
        writer.write(b"late")

    with pytest.raises(ConnectionResetError):
        streams.ask(closed())

"""The event loop that a network thread's thread runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import uvloop

Factory = Callable[[], Any]


class Loop(uvloop.Loop):
    """Its children are libp2p's daemons. ``apart``: they have a session of their own, as a Ctrl-C
    in our terminal is for us, who need the daemon to leave well.

    They dial from any port, not from the one that they listen at. When two peers dial each other
    at once from there, TCP makes one connection of both (RFC 793, 3.4), each side takes itself for
    the caller, and libp2p then refuses to call again for five seconds: one pair of hundreds, and
    what they had to say to each other was lost.

    A transport is libuv's, which knows one thread. But a StreamWriter closes its transport when it
    is collected as garbage, in whatever thread that happens (asyncio.streams, from 3.11.5 on), and
    a transport that is collected closes itself: while libuv waits for the interpreter to tell it
    where to read to, its handle was pulled from under it, and the process died of that. So the loop
    keeps its transports until they are closing, and what others see of them closes them there.
    """

    apart = False

    def __init__(self) -> None:
        super().__init__()
        self._open: set[Any] = set()
        self._children: list[Any] = []

    async def subprocess_exec(self, *words: Any, **more: Any) -> Any:
        more["env"] = {**more["env"], "LIBP2P_TCP_REUSEPORT": "false"}
        transport, protocol = await super().subprocess_exec(
            *words, **more, start_new_session=self.apart
        )
        self._children.append(transport)
        return self.kept(transport), protocol

    async def create_connection(self, protocol_factory: Factory, *words: Any, **more: Any) -> Any:
        transport, protocol = await super().create_connection(
            partial(self._made, protocol_factory), *words, **more
        )
        return self.kept(transport), protocol

    async def create_unix_connection(
        self, protocol_factory: Factory, *words: Any, **more: Any
    ) -> Any:
        transport, protocol = await super().create_unix_connection(
            partial(self._made, protocol_factory), *words, **more
        )
        return self.kept(transport), protocol

    async def create_unix_server(self, protocol_factory: Factory, *words: Any, **more: Any) -> Any:
        return await super().create_unix_server(
            partial(self._made, protocol_factory), *words, **more
        )

    def _made(self, factory: Factory) -> Any:
        protocol = factory()
        tell = protocol.connection_made
        protocol.connection_made = lambda transport: tell(self.kept(transport))
        return protocol

    async def end_children(self) -> None:
        """Also one that did not start well, and that nobody else knows."""
        for child in self._children:
            child.close()
            await child._wait()

    def kept(self, transport: Any) -> Transport:
        """As everybody but libuv sees it."""
        self._open = {other for other in self._open if not other.is_closing()}
        self._open.add(transport)
        return Transport(self, transport)


class Transport:
    """A transport of asyncio that can be closed from any thread, and that is a broken stream to who
    writes to it after that; all else is the loop's."""

    def __init__(self, loop: Loop, transport: Any):
        self._loop, self._transport = loop, transport
        self._thread = threading.get_ident()

    def close(self) -> None:
        """Here and now in the loop's thread, soon from any other."""
        if threading.get_ident() == self._thread:
            self._transport.close()
        else:
            with suppress(RuntimeError):  # the loop is closed, and all its transports are
                self._loop.call_soon_threadsafe(self._transport.close)

    def write(self, data: Any) -> None:
        """Raises ConnectionResetError, where libuv makes a RuntimeError of it, if it is closed."""
        if self._transport.is_closing():
            raise ConnectionResetError("the stream is closed")
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

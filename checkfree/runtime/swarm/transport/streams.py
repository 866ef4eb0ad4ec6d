"""Messages over libp2p: one raw stream each way between two peers, all in one event loop.

What comes in is checked before it is believed, or memory is taken for it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from hivemind.p2p import P2P, PeerID
from hivemind.utils.multiaddr import Multiaddr

from checkfree.messages import codec
from checkfree.messages.control import (
    Abort,
    Archive,
    Begin,
    Commit,
    Dismissed,
    Message,
    Push,
    Rebuild,
    Rollcall,
)
from checkfree.ops import LEAD, Address
from checkfree.runtime.swarm.transport.frames import (
    ENVELOPE,
    LARGEST_NOTICE,
    MESSAGE,
    NOTICE,
    BadFrame,
    Notice,
    Peer,
    check_hello,
    envelope,
    hello,
    notice_frame,
    read_notice,
)
from checkfree.runtime.swarm.transport.links import Links
from checkfree.runtime.swarm.transport.outbound import BROKEN_STREAM, Outbound, Parts

Serve = Callable[[str, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""Serves a stream that the peer with this id, which libp2p has verified, opened to us."""
NAME = "checkfree"
HERE = "/ip4/127.0.0.1/tcp/0"
"""Only processes of this machine can call; any port."""
DIALS, PAUSE = 5, 0.05  # tries, seconds between them
HELLO_WITHIN = 10.0  # seconds
FROM_LEAD = (Abort, Archive, Begin, Commit, Dismissed, Push, Rebuild, Rollcall)
"""Nobody else may send these."""


class Events(Protocol):
    """Whom a Post tells what it hears, in the thread of its loop. None of this may block."""

    def heard(self, peer: Peer) -> None: ...

    def opened(self, peer: Peer) -> None: ...

    def closed(self, peer: Peer) -> None: ...

    def message(self, to: Address, message: Message) -> None: ...

    def notice(self, peer: Peer, notice: dict[str, Any]) -> None: ...

    def broken(self, peer: Peer, why: str) -> None: ...


def host_of(address: Address) -> Address:
    """The process that an actor lives in: store, log and faults are the lead's."""
    return address if address.stage >= 0 else LEAD


class Post:
    """A process' end of all its streams. Everything happens in one event loop."""

    def __init__(self, secret: bytes, events: Events, limits: codec.Limits):
        self._secret, self._events, self.limits = secret, events, limits
        self._p2p: P2P | None = None
        self._links: dict[Address, Outbound] = {}
        self._held: dict[Address, deque[Parts]] = {}
        self.refused: Counter[str] = Counter()
        """What was dropped: "stranger" streams, "malformed" messages, bad "frame"s, what only the
        lead may say from an "impostor", every "application" and "record …" that proves nothing."""
        self.links = Links()
        """The lines that are emulated; of no weight for what is trained."""
        self.me: Peer | None = None
        self.vouched: Callable[[Peer], bool] = lambda peer: peer.seat == LEAD
        """Whether a peer sits where it says. For all but the lead, the lead alone knows, and tells;
        whoever only says so is heard, but nothing is sent to it."""
        self.lead_id = ""
        """How libp2p knows the lead in each of its lives; "": it has a new name in each."""

    async def open(self, sockets: Path, identity: Path, listen: str = HERE) -> None:
        """Start a libp2p daemon of our own and listen. Raises P2PDaemonError."""
        P2P._UNIX_SOCKET_PREFIX = f"/unix{sockets}/"
        self._p2p = p2p = await P2P.create(
            auto_nat=False,
            nat_port_map=False,
            use_relay=False,
            identity_path=str(identity),
            host_maddrs=[listen],
        )
        await p2p.add_binary_stream_handler(NAME, self._serve)

    @property
    def p2p(self) -> P2P:
        """For discovery, which shares our daemon."""
        assert self._p2p is not None
        return self._p2p

    @property
    def id(self) -> str:
        """How libp2p knows us."""
        return str(self.p2p.peer_id.to_base58())

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where others can call us."""
        return tuple(str(address) for address in self.p2p._visible_maddrs)

    async def offer(self, name: str, serve: Serve) -> None:
        """Streams of another kind than those of seats."""

        async def handle(
            info: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            try:
                await serve(info.peer_id.to_base58(), reader, writer)
            finally:
                with suppress(*BROKEN_STREAM):
                    writer.close()

        await self.p2p.add_binary_stream_handler(name, handle)

    async def call(
        self, id: str, addresses: Sequence[str], name: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a stream of such a kind. Raises one of BROKEN_STREAM."""
        other = await self.connect(id, addresses)
        _, reader, writer = await self.p2p.call_binary_stream_handler(other, name)
        return reader, writer

    async def connect(self, id: str, addresses: Sequence[str]) -> PeerID:
        """See that a peer can be reached. Raises one of BROKEN_STREAM."""
        other = PeerID.from_base58(id)
        await self.p2p._client.connect(other, [Multiaddr(a) for a in addresses])
        return other

    async def sit(self, seat: Address, life: int) -> Peer:
        """Take a seat: from now on we have a name, and others may call."""
        self.me = Peer(seat, life, self.id, self.addresses)
        return self.me

    async def daemon_ended(self) -> None:
        """Returns when our libp2p daemon is gone: then nobody can reach us."""
        await self.p2p._child.wait()

    async def close(self) -> None:
        """Stop the daemon; whatever is still queued is lost."""
        for link in self._links.values():
            link.cancel()
        if self._p2p is not None:
            await self._p2p.shutdown()

    # --- out -------------------------------------------------------------------------------------

    def learn(self, peer: Peer) -> None:
        """Where a seat is from now on. An older life than the one known is no news."""
        known = self._links.get(peer.seat)
        if known is not None and peer.life <= known.peer.life:
            return
        if known is not None:
            known.cancel()
        line = self.links.line(self.me.seat, peer.seat) if self.me else None
        self._links[peer.seat] = link = Outbound(peer, line, self.dial, self._events.broken)
        for parts in self._held.pop(peer.seat, ()):
            link.put(parts)

    def send(self, to: Address, parts: Parts) -> None:
        """A message to an actor. What is for the dead is dropped, what is for somebody that we
        have not heard of yet waits."""
        self._put(host_of(to), (envelope(to), *parts))

    def notify(self, to: Address, notice: Notice) -> None:
        """A notice to a process."""
        self._put(to, (notice_frame(notice),))

    def _put(self, seat: Address, parts: Parts) -> None:
        link = self._links.get(seat)
        if link is None:
            self._held.setdefault(seat, deque()).append(parts)
        else:
            link.put(parts)

    async def flushed(self) -> None:
        """All that was queued for living links has left."""
        await asyncio.gather(*(link.flushed() for link in self._links.values()))

    async def dial(self, peer: Peer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A stream to a peer that has said hello. Raises one of BROKEN_STREAM."""
        assert self.me is not None
        for attempt in range(DIALS):
            try:
                reader, writer = await self.call(peer.id, peer.addresses, NAME)
                break
            except BROKEN_STREAM:
                if attempt + 1 == DIALS:
                    raise
                await asyncio.sleep(PAUSE)
        writer.write(notice_frame(hello(self.me, peer.id, self._secret)))
        return reader, writer

    # --- in --------------------------------------------------------------------------------------

    async def _serve(
        self, info: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        peer = None
        try:
            peer = await asyncio.wait_for(self._greeted(info, reader), HELLO_WITHIN)
            if self.vouched(peer):
                self.learn(peer)
            self._events.opened(peer)
            while True:
                await self._take(peer, reader)
        except BadFrame:
            self.refused["stranger" if peer is None else "frame"] += 1
        except BROKEN_STREAM:
            pass  # it is gone; the end of its stream says so
        finally:
            with suppress(*BROKEN_STREAM):
                writer.close()
            if peer is not None:
                self._events.closed(peer)

    async def _greeted(self, info: Any, reader: asyncio.StreamReader) -> Peer:
        kind, _, _, size = ENVELOPE.unpack(await reader.readexactly(ENVELOPE.size))
        if kind != NOTICE or size > 1 << 12:
            raise BadFrame("no hello")
        notice = read_notice(await reader.readexactly(size))
        if self.me is None:
            raise BadFrame("nobody can know us yet")
        peer = check_hello(notice, info.peer_id.to_base58(), self.me.id, self._secret)
        known = self._links.get(peer.seat)
        if known is not None and not known.peer.gives_way(peer):
            raise BadFrame("sits where somebody else sits")
        if peer.seat == LEAD and self.lead_id not in ("", peer.id):
            raise BadFrame("leads under another name")
        return peer

    async def _take(self, peer: Peer, reader: asyncio.StreamReader) -> None:
        kind, stage, replica, size = ENVELOPE.unpack(await reader.readexactly(ENVELOPE.size))
        self._events.heard(peer)
        if kind == NOTICE and size <= LARGEST_NOTICE:
            self._noticed(peer, read_notice(await reader.readexactly(size)))
        elif kind == MESSAGE and size == 0:
            await self._message(peer, Address(stage, replica), reader)
        else:
            raise BadFrame(f"frame of kind {kind} and {size} bytes")

    def _noticed(self, peer: Peer, notice: dict[str, Any]) -> None:
        if peer.seat == LEAD:
            for plain in notice.get("peers", ()):
                self.learn(Peer.from_json(plain))
        self._events.notice(peer, notice)

    async def _message(self, peer: Peer, to: Address, reader: asyncio.StreamReader) -> None:
        prefix = await reader.readexactly(codec.PREFIX)
        try:
            size = codec.measure(prefix, self.limits)
        except codec.Malformed as error:
            self.refused["malformed"] += 1
            raise BadFrame(str(error)) from None  # where the next frame begins, nobody knows
        data = codec.buffer(size)
        data[: len(prefix)] = prefix
        await self._fill(peer, reader, data, len(prefix))
        try:
            message = codec.decode(data, self.limits)
        except codec.Malformed:
            self.refused["malformed"] += 1
            return
        if isinstance(message, FROM_LEAD) and not self._leads(peer):
            self.refused["impostor"] += 1
            return
        self._events.message(to, message)

    def _leads(self, peer: Peer) -> bool:
        """It is the lead, and no later one has called."""
        known = self._links.get(LEAD)
        return peer.seat == LEAD and known is not None and known.peer == peer

    async def _fill(
        self, peer: Peer, reader: asyncio.StreamReader, data: memoryview, start: int
    ) -> None:
        while start < len(data):
            chunk = await reader.read(min(1 << 20, len(data) - start))
            if not chunk:
                raise EOFError
            data[start : start + len(chunk)] = chunk
            start += len(chunk)
            self._events.heard(peer)

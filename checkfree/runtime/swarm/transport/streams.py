"""Messages over libp2p: two raw streams each way between two peers, all in one event loop. What
goes over the second may take a shorter way, on one machine.

What comes in is checked before it is believed, or memory is taken for it.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from hivemind.p2p import P2P, PeerID
from hivemind.utils.multiaddr import Multiaddr

from checkfree.core.ops import LEAD, Address
from checkfree.messages import codec
from checkfree.messages.control import (
    Abort,
    Archive,
    Begin,
    Commit,
    Dismissed,
    Message,
    Note,
    Push,
    Rebuild,
    Reroute,
    Rollcall,
    Underway,
)
from checkfree.runtime.swarm.transport import local
from checkfree.runtime.swarm.transport.addresses import readable
from checkfree.runtime.swarm.transport.direct_reader import DirectReader
from checkfree.runtime.swarm.transport.frames import (
    ACK,
    ENVELOPE,
    FIRST_LANE,
    LARGEST_NOTICE,
    NOTICE,
    BadFrame,
    Notice,
    Peer,
    check_hello,
    hello,
    notice_frame,
    read_notice,
)
from checkfree.runtime.swarm.transport.lanes import LARGEST_PIECE, Lane, Parts, lane_of
from checkfree.runtime.swarm.transport.links import Links
from checkfree.runtime.swarm.transport.outbound import (
    BROKEN_STREAM,
    CONTROL,
    DATA,
    Opened,
    Outbound,
)
from checkfree.runtime.swarm.transport.probes import Prober

Serve = Callable[[str, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""Serves a stream that the peer with this id, which libp2p has verified, opened to us."""
NAME = "checkfree"
HERE = "/ip4/127.0.0.1/tcp/0"
"""Only processes of this machine can call; any port."""
DIALS, PAUSE = 5, 0.05  # tries, seconds between them
HELLO_WITHIN = 10.0  # seconds
LARGEST_HELLO = 1 << 12  # bytes
NOBODY = "checkfree-nobody"
"""Of this name no stream is served: whoever is asked for one says so, if it can be reached."""
LIVES_WITHIN = 1.0
"""Seconds for that: two round trips of any line that one trains over."""
FROM_LEAD = (
    *(Abort, Archive, Begin, Commit, Dismissed, Note, Push, Rebuild, Reroute, Rollcall, Underway),
)
"""Nobody else may send these."""


class Events(Protocol):
    """Whom a Post tells what it hears, in the thread of its loop. None of this may block."""

    def heard(self, peer: Peer) -> None: ...

    def opened(self, peer: Peer) -> None: ...

    def closed(self, peer: Peer) -> None: ...

    def answered(self, peer: Peer, sent: float) -> None: ...

    def message(self, to: Address, message: Message) -> None: ...

    def notice(self, peer: Peer, notice: dict[str, Any]) -> None: ...

    def broken(self, peer: Peer, why: str) -> None: ...

    def drained(self, peer: Peer) -> None: ...


def host_of(address: Address) -> Address:
    """The process that an actor lives in: store, log and faults are the lead's."""
    return address if address.stage >= 0 else LEAD


def _pair(one: Peer, other: Peer) -> frozenset[tuple[Address, int]]:
    return frozenset(((one.seat, one.life), (other.seat, other.life)))


def new_identity(path: Path) -> None:
    """The key of a libp2p daemon, unless there is one: whole or not at all. Raises OSError."""
    if path.is_file():
        return
    draft = path.with_name(f"{path.name}.draft")
    try:
        P2P.generate_identity(str(draft))
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


class Endpoint:
    """A process' end of all its streams. Everything happens in one event loop."""

    def __init__(self, secret: bytes, events: Events, limits: codec.Limits):
        self._secret, self._events, self.limits = secret, events, limits
        self._local, self._machine = local.LocalServer(self._take), local.machine(secret)
        self._p2p: P2P | None = None
        self._links: dict[Address, Outbound] = {}
        self._held: dict[Address, deque[Callable[[Outbound], None]]] = {}
        self.refused: Counter[str] = Counter()
        """What was dropped: "stranger" streams, "malformed" messages, bad "frame"s, what only the
        lead may say from an "impostor", every "application" and "record …" that proves nothing."""
        self.links = Links()
        """The lines that are emulated; of no weight for what is trained."""
        self.me: Peer | None = None
        self.vouched: Callable[[Peer], bool] = lambda peer: peer.seat == LEAD
        """Whether a peer sits where it says. For all but the lead, the lead alone knows, and tells;
        whoever only says so is heard, but nothing is sent to it."""
        self.relays: Counter[frozenset[tuple[Address, int]]] = Counter()
        """At the lead: lives that can't reach each other, and the bytes that were passed on for
        them."""
        self._by_lead: set[tuple[Address, int]] = set()
        """Lives that we reach by the lead alone."""
        self.prober = Prober(self.notify)
        self.lead_id = ""
        """How libp2p knows the lead in each of its lives; "": it has a new name in each."""

    async def open(self, sockets: Path, identity: Path, listen: str = HERE) -> None:
        """Start a libp2p daemon of our own and listen. Raises P2PDaemonError."""
        P2P._UNIX_SOCKET_PREFIX = f"/unix{sockets}/"
        self._p2p = p2p = await P2P.create(
            auto_nat=False,
            nat_port_map=False,
            use_relay=False,
            tls=False,  # Noise alone, which has no certificates that a clock could take for expired
            identity_path=str(identity),
            host_maddrs=[listen],
        )
        await p2p.add_binary_stream_handler(NAME, self._serve)
        await self._local.open()

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
        return readable(map(str, self.p2p._visible_maddrs))

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

    async def renew(self, id: str) -> None:
        """Give up a connection on which nothing comes any more, for the next call to make another:
        TCP tries the old one again only after as long as it was dead. One at whose end a daemon
        answers, be it that there is nobody of that name, stays as it is, with all its streams."""
        other = PeerID.from_base58(id)
        with suppress(*BROKEN_STREAM):
            try:
                asked = self.p2p.call_binary_stream_handler(other, NOBODY)
                await asyncio.wait_for(asked, LIVES_WITHIN)
            except asyncio.TimeoutError:
                await asyncio.wait_for(self.p2p._client.disconnect(other), LIVES_WITHIN)

    async def sit(self, seat: Address, life: int) -> Peer:
        """Take a seat: from now on we have a name, and others may call."""
        self.me = Peer(seat, life, self.id, self.addresses)
        return self.me

    @property
    def listens(self) -> bool:
        """Our libp2p daemon lives."""
        return self._p2p is not None and self._p2p._child.returncode is None

    async def daemon_ended(self) -> None:
        """Returns when our libp2p daemon is gone: then nobody can reach us."""
        await self.p2p._child.wait()

    async def close(self) -> None:
        """Stop the daemon; whatever is still queued is lost."""
        for link in self._links.values():
            link.cancel()
        self._local.close()
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
        tell = self._events
        self._links[peer.seat] = link = Outbound(peer, line, self.dial, tell.broken, tell.drained)
        if self.goes_by_lead(peer):
            link.cancel()
        for put in self._held.pop(peer.seat, ()):
            self._put(self._way_to(peer.seat), put)

    def forget(self, which: Callable[[Address], bool]) -> None:
        """These are nobody any more: what waits for them, and what was on its way to them."""
        for at in [at for at in self._held if which(at)]:
            del self._held[at]
        for at in [at for at in self._links if which(at)]:
            self._links.pop(at).cancel()

    def send(self, to: Address, lane: Lane, parts: Parts) -> None:
        """A message to an actor. What is for the dead is dropped, what is for somebody that we
        have not heard of yet waits."""
        seat = host_of(to)
        self._put(self._way_to(seat), lambda link: link.put(lane, to, parts))

    def _way_to(self, seat: Address) -> Address:
        """Where what is for a seat goes first."""
        link = self._links.get(seat)
        return LEAD if link is not None and self.goes_by_lead(link.peer) else seat

    def calls(self, peer: Peer) -> bool:
        """That life is the one that we know at its seat, and what is for it goes straight there."""
        link = self._links.get(peer.seat)
        return link is not None and link.peer == peer and not self.goes_by_lead(peer)

    def goes_by_lead(self, peer: Peer) -> bool:
        """We can't reach it, and the lead passes on what we say."""
        return (peer.seat, peer.life) in self._by_lead

    def notify(self, to: Address, notice: Notice) -> None:
        """A notice to a process."""
        frame = notice_frame(notice)
        self._put(to, lambda link: link.notify(frame))

    def relay(self, one: Peer, other: Peer) -> None:
        """At the lead: pass on what these two say to each other, and have them know."""
        self.relays[_pair(one, other)] += 0
        for peer, unreachable in ((one, other), (other, one)):
            self.notify(peer.seat, {"relay": unreachable.to_json()})

    def _go_by_lead(self, peer: Peer) -> None:
        """Also to one that we have not heard of yet."""
        self._by_lead.add((peer.seat, peer.life))
        link = self._links.get(peer.seat)
        if link is not None and link.peer == peer:
            link.cancel()

    def _put(self, seat: Address, put: Callable[[Outbound], None]) -> None:
        link = self._links.get(seat)
        if link is None:
            self._held.setdefault(seat, deque()).append(put)
        else:
            put(link)

    def behind(self) -> tuple[int, Address | None]:
        """Bytes of what is trained on that wait for the line that has most of them waiting, and to
        whom that is."""
        links = list(self._links.items())  # the loop's thread may change them
        return max(((link.behind, seat) for seat, link in links), default=(0, None))

    def lines(self) -> dict[str, float]:
        """Of each seat that we train with: seconds for which the line there was taken."""
        links = list(self._links.items())  # the loop's thread may change them
        return {str(seat): round(link.trains, 3) for seat, link in links if link.trains}

    def ways(self) -> dict[str, float]:
        """Of each seat that we train with: seconds for which something was on its way there."""
        links = list(self._links.items())
        return {str(seat): round(link.under_way, 4) for seat, link in links if link.under_way}

    async def flushed(self) -> None:
        """All that was queued for living links has left."""
        await asyncio.gather(*(link.flushed() for link in self._links.values()))

    async def dial(self, peer: Peer, stream: str = CONTROL) -> Opened:
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
        # Over lines that are slower than they are nothing goes past them.
        asks = self._machine if stream == DATA and not self.links.rules else ""
        writer.write(notice_frame(hello(self.me, peer.id, self._secret, stream, asks)))
        opened = Opened(reader, writer)
        if not asks:
            return opened
        try:
            shorter = await local.connect(await _answer(reader))
        except BaseException:
            writer.close()
            raise
        if shorter is None:
            return opened
        writer.close()
        return Opened(*shorter, local=True)

    # --- in --------------------------------------------------------------------------------------

    async def _serve(
        self, info: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        peer, stream, token = None, "", b""
        try:
            greeted = await asyncio.wait_for(self._greeted(info, reader), HELLO_WITHIN)
            peer, stream, asks = greeted
            if self.vouched(peer):
                self.learn(peer)
            if stream == CONTROL:
                self._events.opened(peer)
            if asks:
                answer: Notice = {}
                if asks == self._machine:
                    answer, token = self._local.offer(peer)
                writer.write(notice_frame(answer))
            await self._take(peer, reader, writer)
        except BadFrame:
            self.refused["stranger"] += 1
        except BROKEN_STREAM:
            pass  # it is gone; the end of its stream says so
        finally:
            self._local.withdraw(token)
            with suppress(*BROKEN_STREAM):
                writer.close()
            if peer is not None and stream == CONTROL:
                self._events.closed(peer)

    async def _take(
        self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """All that comes over a stream, until it ends or nobody knows where a frame begins."""
        try:
            heard = partial(self._events.heard, peer)
            direct = await DirectReader.taking_over(reader, writer, heard)
            await _Inbound(self, peer, direct, writer).take_all()
        except BadFrame:
            self.refused["frame"] += 1
        except BROKEN_STREAM:
            pass

    async def _greeted(self, info: Any, reader: asyncio.StreamReader) -> tuple[Peer, str, str]:
        """Who opened which stream, and the machine of who asks for a shorter way."""
        kind, _, _, size = ENVELOPE.unpack(await reader.readexactly(ENVELOPE.size))
        if kind != NOTICE or size > LARGEST_HELLO:
            raise BadFrame("no hello")
        notice = read_notice(await reader.readexactly(size))
        if self.me is None:
            raise BadFrame("nobody can know us yet")
        peer, stream = check_hello(notice, info.peer_id.to_base58(), self.me.id, self._secret)
        known = self._links.get(peer.seat)
        if known is not None and not known.peer.gives_way(peer):
            raise BadFrame("sits where somebody else sits")
        if peer.seat == LEAD and self.lead_id not in ("", peer.id):
            raise BadFrame("leads under another name")
        if stream not in (CONTROL, DATA):
            raise BadFrame("opens a stream that we don't know")
        machine = notice.get("machine", "")
        if type(machine) is not str or (machine and stream != DATA):
            raise BadFrame("asks for what there is not")
        return peer, stream, machine

    def noticed(self, peer: Peer, notice: dict[str, Any]) -> None:
        """A notice has come."""
        match notice:
            case {"ping": sent} if peer.seat in self._links:
                return self.notify(peer.seat, {"pong": sent})
            case {"pong": float(sent)}:
                return self._events.answered(peer, sent)
            case {"probe": int(number)} if peer.seat in self._links:
                return self.notify(peer.seat, {"probed": number})
            case {"probed": int(number)}:
                return self.prober.answered(peer.seat, number)
            case {"relay": plain} if peer.seat == LEAD:
                self._go_by_lead(Peer.from_json(plain))
        if peer.seat == LEAD:
            for plain in notice.get("peers", ()):
                self.learn(Peer.from_json(plain))
        self._events.notice(peer, notice)

    def delivered(self, peer: Peer, to: Address, data: memoryview) -> None:
        """All of a message has come."""
        try:
            message = codec.decode(data, self.limits)
        except codec.Malformed:
            self.refused["malformed"] += 1
            return
        if isinstance(message, FROM_LEAD) and not self._leads(peer):
            self.refused["impostor"] += 1
            return
        if self.me is not None and host_of(to) != self.me.seat and self._pass_on(peer, to, message):
            self.relays[_pair(peer, self._links[to].peer)] += len(data)
            return
        self._events.message(to, message)

    def _pass_on(self, peer: Peer, to: Address, message: Message) -> bool:
        """At the lead: what one says to another who can't be reached from there."""
        link = self._links.get(to)
        if link is None or _pair(peer, link.peer) not in self.relays:
            return False
        link.put(lane_of(message), to, codec.encode(message))
        return True

    def _leads(self, peer: Peer) -> bool:
        """It is the lead, and no later one has called."""
        known = self._links.get(LEAD)
        return peer.seat == LEAD and known is not None and known.peer == peer


@dataclass
class _Coming:
    """A message that is under way: how much of it is here."""

    to: Address
    data: memoryview
    here: int = 0


class _Inbound:
    """One stream that a peer has opened to us."""

    def __init__(
        self,
        endpoint: Endpoint,
        peer: Peer,
        reader: DirectReader,
        writer: asyncio.StreamWriter,
    ):
        self._endpoint, self._peer, self._reader, self._writer = endpoint, peer, reader, writer
        self._coming: dict[Lane, _Coming] = {}

    async def take_all(self) -> None:
        """Until it ends. Raises BadFrame, or one of BROKEN_STREAM."""
        while True:
            head = await self._reader.exactly(ENVELOPE.size)
            kind, stage, replica, size = ENVELOPE.unpack(head)
            if kind == NOTICE and size <= LARGEST_NOTICE:
                notice = read_notice(await self._reader.exactly(size))
                self._endpoint.noticed(self._peer, notice)
            elif kind - FIRST_LANE in iter(Lane) and 0 < size <= LARGEST_PIECE:
                await self._piece(Lane(kind - FIRST_LANE), Address(stage, replica), size)
            else:
                raise BadFrame(f"frame of kind {kind} and {size} bytes")

    async def _piece(self, lane: Lane, to: Address, size: int) -> None:
        coming = self._coming.get(lane)
        if coming is None:
            coming = self._coming[lane] = await self._begun(to, size)
            size -= codec.PREFIX
        if coming.to != to or size > len(coming.data) - coming.here:
            raise BadFrame("a piece of another message than the one under way")
        await self._reader.fill(coming.data[coming.here : coming.here + size])
        coming.here += size
        if lane is not Lane.CONTROL:
            self._writer.write(ACK)
        if coming.here == len(coming.data):
            del self._coming[lane]
            self._endpoint.delivered(self._peer, to, coming.data)

    async def _begun(self, to: Address, size: int) -> _Coming:
        """Memory for a whole message, once it is known that it may be as long as it says."""
        if size < codec.PREFIX:
            raise BadFrame(f"a message that begins with {size} bytes")
        prefix = await self._reader.exactly(codec.PREFIX)
        try:
            data = codec.buffer(codec.measure(prefix, self._endpoint.limits))
        except codec.Malformed as error:
            self._endpoint.refused["malformed"] += 1
            raise BadFrame(str(error)) from None  # where the next frame begins, nobody knows
        data[: len(prefix)] = prefix
        return _Coming(to, data, len(prefix))


async def _answer(reader: asyncio.StreamReader) -> Notice:
    """To a hello that asked for a shorter way; who hangs is found by its silence. Raises one of
    BROKEN_STREAM."""
    kind, _, _, size = ENVELOPE.unpack(await reader.readexactly(ENVELOPE.size))
    if kind != NOTICE or size > LARGEST_HELLO:
        raise EOFError("no answer")
    try:
        return read_notice(await reader.readexactly(size))
    except BadFrame:
        raise EOFError("no answer") from None

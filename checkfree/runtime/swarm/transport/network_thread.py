"""The thread that moves messages while the main thread computes, and what it puts in its inbox."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from checkfree.core.errors import RunFailed
from checkfree.core.ops import LEAD, Address, StateId
from checkfree.messages import codec
from checkfree.messages.control import Message, Outgoing, Ticket
from checkfree.runtime.swarm.placement.nodes import Node
from checkfree.runtime.swarm.presence.liveness import RoundTrip, beat_every, detect_failures
from checkfree.runtime.swarm.transport.addresses import render_listen
from checkfree.runtime.swarm.transport.frames import Notice, Peer
from checkfree.runtime.swarm.transport.lanes import lane_of
from checkfree.runtime.swarm.transport.loop import Loop
from checkfree.runtime.swarm.transport.outbound import BROKEN_STREAM
from checkfree.runtime.swarm.transport.streams import HERE, Endpoint, new_identity

T = TypeVar("T")
CLOSE_WITHIN = 2.0  # seconds


@dataclass(frozen=True)
class Delivered:
    """A message for an actor of this process."""

    to: Address
    message: Message


@dataclass(frozen=True)
class PeerEvent:
    """What became of a peer: "opened" or "closed" its stream to us, "silent" for too long, or
    "broken", ours to it; "drained": so much has left for it that there is room for more. ``peer``
    None and "daemon": we are cut off ourselves."""

    what: str
    peer: Peer | None
    why: str = ""


@dataclass(frozen=True)
class PeerMessage:
    """A notice of a peer."""

    peer: Peer
    notice: dict[str, Any]


@dataclass(frozen=True)
class Order:
    """A line from the launcher."""

    said: dict[str, Any]


@dataclass(frozen=True)
class Visitor:
    """Somebody at the other end of a join stream, at the lead: the id of its process, its node, and
    how to tell it something, from any thread; ``addresses``: where it is called. ``was``: the seat
    and life that it thinks it has.
    ``brings``: the exact state of a life that is over, and what it was ``prepared`` for.
    ``equipment``: on what it computes."""

    id: str
    node: Node
    tell: Callable[[Notice], None]
    addresses: tuple[str, ...] = ()
    was: tuple[Address, int] | None = None
    brings: StateId | None = None
    prepared: Ticket | None = None
    equipment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class JoinRequest:
    """A visitor is "back" with a seat, "ready" for one, "leaving" it, an "heir" that can be called
    or that "has" a leaver's state, or has "left"; it asks whether it can be "called", or has
    "dialled" others."""

    what: str
    visitor: Visitor
    told: Notice = field(default_factory=dict)


@dataclass(frozen=True)
class Said:
    """What the lead says over a join stream, or that it was "cut", is there "again", or "lost"."""

    notice: Notice


@dataclass(frozen=True)
class Answered:
    """What an actor of this process says that has a thread of its own, or why it says no more."""

    out: Sequence[Outgoing]
    error: Exception | None = None


Item = Delivered | PeerEvent | PeerMessage | Order | JoinRequest | Said | Answered


class NetworkThread:
    """Streams of one process, in a thread of their own; ``inbox`` is what came in.

    It never computes and never blocks, so it answers while an op runs for seconds. ``terminal``:
    a Ctrl-C may come to our whole process group, and not to us alone.
    """

    def __init__(self, secret: bytes, limits: codec.Limits, *, terminal: bool = False):
        self.inbox: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self.loop = Loop()
        self.loop.apart = terminal
        self.endpoint = Endpoint(secret, self, limits)
        self.heard_at: dict[Peer, float] = {}
        """When each peer was last heard, by ``time.monotonic``; for the loop's thread only."""
        self.round_trips: dict[Peer, RoundTrip] = {}
        """Of those whom we ``ping``, and did until they were gone."""
        self.pulses: dict[Peer, dict[str, Any]] = {}
        """The last pulse of each peer of this run, the dead among them."""
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)
        self._tasks: set[asyncio.Future[Any]] = set()
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    # --- from the main thread --------------------------------------------------------------------

    def open(self, sockets: Path, identity: Path, listen: str = HERE) -> None:
        """Listen. Raises RunFailed if that can't be."""
        try:
            new_identity(identity)
        except OSError as error:
            raise RunFailed(
                f"cannot write {identity}: {error.strerror or error}; make room there"
            ) from None
        try:
            self.wait(self.endpoint.open(sockets, identity, listen))
        except BROKEN_STREAM as error:
            raise RunFailed(_cannot_open(listen, error)) from None
        self.start(self._watch_daemon())

    def sit(self, seat: Address, life: int) -> Peer:
        """Take a seat; only then do others hear of us."""
        return self.wait(self.endpoint.sit(seat, life))

    def wait(self, work: Coroutine[Any, Any, T], within: float | None = None) -> T:
        """Run something in the thread's loop and wait for what it returns. Raises TimeoutError if
        that takes longer than ``within`` seconds."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self.loop).result(within)
        except futures.TimeoutError as error:  # another one than Python's own before 3.11
            raise TimeoutError(*error.args) from None

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run something in the network thread's loop until it ends or we close."""
        self.loop.call_soon_threadsafe(self._start, work)

    def _start(self, work: Coroutine[Any, Any, Any]) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def send(self, to: Address, message: Message) -> None:
        """Encoded here and now; its tensors must not be changed any more."""
        parts = codec.encode(message)
        self.loop.call_soon_threadsafe(self.endpoint.send, to, lane_of(message), parts)

    def notify(self, to: Address, notice: Notice) -> None:
        self.loop.call_soon_threadsafe(self.endpoint.notify, to, notice)

    def learn(self, peer: Peer) -> None:
        self.loop.call_soon_threadsafe(self.endpoint.learn, peer)

    def forget(self, which: Callable[[Address], bool]) -> None:
        """Drop what is for these, who never come."""
        self.loop.call_soon_threadsafe(self.endpoint.forget, which)

    def flush(self, within: float) -> None:
        """Wait until what was sent has left, but not longer than ``within`` seconds."""

        async def work() -> None:
            await asyncio.wait((asyncio.ensure_future(self.endpoint.flushed()),), timeout=within)

        self.wait(work())

    def close(self) -> None:
        """End all tasks and streams, also those that libraries have begun in our loop."""

        async def work() -> None:
            await _cancelled(self._tasks)
            await self.endpoint.close()
            await _cancelled(asyncio.all_tasks() - {asyncio.current_task()})
            await self.loop.end_children()

        self.wait(work(), 10.0)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10.0)

    # --- on the thread ---------------------------------------------------------------------------

    async def watch_neighbours(self, patience: float) -> None:
        """See that those who have called us live: whoever falls silent, be it only for us, is
        "silent" in the inbox. The lead hears sooner than we do of whoever is dead."""
        every = beat_every(patience)
        pinging = self.loop.create_task(ping(self, every))
        try:
            late, heard = patience + 2 * every, self._neighbours
            await detect_failures(late, heard, self._fell_silent, self.granted)
        finally:
            pinging.cancel()

    def _neighbours(self) -> dict[Peer, float]:
        """But for those of a life that is over: they may fall silent."""
        known = self.endpoint.calls
        return {p: at for p, at in self.heard_at.items() if p.seat != LEAD and known(p)}

    def _fell_silent(self, peer: Peer) -> None:
        del self.heard_at[peer]
        self.inbox.put(PeerEvent("silent", peer, "it was not heard any more"))

    def granted(self, peer: Peer) -> float:
        """Seconds of silence beside the patience."""
        trip = self.round_trips.get(peer)
        return 0.0 if trip is None else trip.grants()

    async def _watch_daemon(self) -> None:
        await self.endpoint.daemon_ended()
        self.loop.set_exception_handler(_of_the_daemon)
        self.inbox.put(PeerEvent("daemon", None, "the libp2p daemon is gone"))

    def heard(self, peer: Peer) -> None:
        self.heard_at[peer] = time.monotonic()

    def opened(self, peer: Peer) -> None:
        self.heard(peer)
        self.inbox.put(PeerEvent("opened", peer))

    def closed(self, peer: Peer) -> None:
        self.heard_at.pop(peer, None)
        self.inbox.put(PeerEvent("closed", peer, "its stream ended"))

    def answered(self, peer: Peer, sent: float) -> None:
        trip = self.round_trips.setdefault(peer, RoundTrip())
        trip.measured(time.monotonic() - sent)

    def message(self, to: Address, message: Message) -> None:
        self.inbox.put(Delivered(to, message))

    def notice(self, peer: Peer, notice: dict[str, Any]) -> None:
        if "pulse" in notice:
            self.pulses[peer] = notice
        elif "measure" in notice and peer.seat == LEAD:
            self._start(self._measure(notice["measure"]))
        else:
            self.inbox.put(PeerMessage(peer, notice))

    async def _measure(self, seats: Sequence[str]) -> None:
        """The lines to these seats, one after the other, and tell the lead."""
        found = await self.endpoint.prober.measure([Address.parse(seat) for seat in seats])
        self.endpoint.notify(LEAD, {"measured": found})

    def broken(self, peer: Peer, why: str) -> None:
        self.inbox.put(PeerEvent("broken", peer, why))

    def drained(self, peer: Peer) -> None:
        self.inbox.put(PeerEvent("drained", peer))


def _cannot_open(listen: str, error: Exception) -> str:
    """In one line, with what to do."""
    told = " ".join(str(error).split())[:300] or type(error).__name__
    _, listens, why = told.partition("failed to listen on any addresses: ")
    if listens:
        return (
            f"can't listen at {render_listen(listen)} ({why.strip('[]')}): give another --listen "
            "HOST:PORT, or port 0 for any that is free"
        )
    if "Failed to start p2pd" in told or "binary" in told:
        told += "; reinstall hivemind, and see that its p2pd may be executed"
    return f"libp2p's daemon does not start ({told}): checkfree doctor tries it"


def _of_the_daemon(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """That something which libraries had to say to a dead daemon was not said is no news."""
    if not isinstance(context.get("exception"), BROKEN_STREAM):
        loop.default_exception_handler(context)


async def _cancelled(tasks: Collection[asyncio.Future[Any]]) -> None:
    ours = tuple(tasks)
    for task in ours:
        task.cancel()
    if ours:
        await asyncio.wait(ours, timeout=CLOSE_WITHIN)


async def ping(network: NetworkThread, every: float) -> None:
    """Measure the way to all who have called us and back, again and again."""
    while True:
        for peer in list(network.heard_at):
            if network.endpoint.calls(peer):
                network.endpoint.notify(peer.seat, {"ping": time.monotonic()})
        await asyncio.sleep(every)


async def beat(endpoint: Endpoint, every: float, pulse: Callable[[], Notice]) -> None:
    """Tell the lead that we live, from the network thread: also while an op runs."""
    while True:
        endpoint.notify(LEAD, pulse())
        await asyncio.sleep(every)

"""The lead's side of join streams: who asks to join is checked, told of the run, and listened to.

On the network thread. What a visitor comes to goes to its inbox, for the main thread to decide.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from checkfree.core.ops import Address
from checkfree.messages.control import Ticket
from checkfree.runtime.swarm.joining.dialback import read_addresses
from checkfree.runtime.swarm.joining.handshake import (
    JOIN_PROTOCOL,
    LARGEST_WORD,
    hear,
    is_proven,
    refusal,
    say,
    signed,
    stale_after,
    state_id,
)
from checkfree.runtime.swarm.placement.nodes import Node
from checkfree.runtime.swarm.presence.liveness import RoundTrip, beat_every
from checkfree.runtime.swarm.presence.survey import aged
from checkfree.runtime.swarm.transport.frames import BadFrame, Notice
from checkfree.runtime.swarm.transport.network_thread import JoinRequest, NetworkThread, Visitor
from checkfree.runtime.swarm.transport.outbound import BROKEN_STREAM

APPLY_WITHIN = 10.0  # seconds
MOST_FACTS, LONGEST_FACT = 64, 200
"""Of what somebody computes on; characters of one."""


@dataclass(frozen=True)
class JoinTerms:
    """``release`` is what has to be equal on both sides; ``welcome`` what a joiner is told of the
    run, made anew for each; None: we are no lead, and say so. ``status``: what whoever asks is
    told of how it goes; ``links``: and of the lines between its machines."""

    secret: bytes
    patience: float
    release: Mapping[str, str]
    welcome: Callable[[], Mapping[str, Any]] | None
    status: Callable[[], Mapping[str, Any]] = dict
    links: Callable[[], Mapping[str, Any]] = dict


class JoinSessions:
    """Serves every join stream of one process. Those that it did not take count among what the
    endpoint refused."""

    def __init__(self, network: NetworkThread, terms: JoinTerms):
        self._network, self._terms = network, terms

    async def open(self) -> None:
        """Listen for applications."""
        await self._network.endpoint.offer(JOIN_PROTOCOL, self._serve)

    async def _serve(
        self, id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            notice = await asyncio.wait_for(hear(reader, LARGEST_WORD), APPLY_WITHIN)
            known = is_proven(self._terms.secret, id, self._network.endpoint.id, notice)
            why = refusal(notice, self._terms.release, known)
            if not why:
                return await self._welcome(id, notice, reader, writer)
            self._network.endpoint.refused["application"] += 1
            say(writer, {"refused": why})
            await self._drained(reader, writer)
        except BadFrame:
            self._network.endpoint.refused["application"] += 1
        except BROKEN_STREAM:
            pass  # it is gone; if it had been welcomed, that was told

    async def _drained(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What we said has to arrive: the other side ends the stream when it has read it."""
        await writer.drain()
        await asyncio.wait_for(reader.read(1), APPLY_WITHIN)

    async def _welcome(
        self, id: str, notice: Notice, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        welcome, ours = self._terms.welcome, self._network.endpoint.id
        if welcome is None:
            say(writer, signed(self._terms.secret, ours, id, {"elsewhere": True}))
            return await self._drained(reader, writer)
        visitor, trip = visitor_of(id, notice, self._teller(writer)), RoundTrip()
        told = {"welcome": {**welcome(), "clock": time.time()}}
        say(writer, signed(self._terms.secret, ours, id, told))
        beats = asyncio.ensure_future(self._beat(writer, trip))
        try:
            await self._listen(visitor, reader, writer, trip)
        finally:
            beats.cancel()
            self._network.inbox.put(JoinRequest("left", visitor))

    def _teller(self, writer: asyncio.StreamWriter) -> Callable[[Notice], None]:
        def write(notice: Notice) -> None:
            with suppress(*BROKEN_STREAM):
                say(writer, notice)

        def tell(notice: Notice) -> None:
            self._network.loop.call_soon_threadsafe(write, notice)

        return tell

    async def _listen(
        self,
        visitor: Visitor,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        trip: RoundTrip,
    ) -> None:
        if visitor.was is not None:
            self._network.inbox.put(JoinRequest("back", visitor))
        ready = False
        while True:
            within = stale_after(self._terms.patience) + trip.grants()
            said = await asyncio.wait_for(hear(reader), within)
            if type(sent := said.get("echo")) is float:
                trip.measured(max(0.0, time.monotonic() - sent))
            if "ready" in said and not ready:
                ready = True
                self._network.inbox.put(JoinRequest("ready", visitor))
            if "status" in said:
                say(writer, {"status": dict(self._terms.status())})
            if "links" in said:
                say(writer, {"links": aged(self._terms.links())})
            for what in ("leaving", "heir", "has", "called", "dialled"):
                if what in said:
                    self._network.inbox.put(JoinRequest(what, visitor, said))

    async def _beat(self, writer: asyncio.StreamWriter, trip: RoundTrip) -> None:
        while True:
            say(writer, {"beat": time.monotonic(), "granted": trip.grants()})
            await asyncio.sleep(beat_every(self._terms.patience))


def visitor_of(id: str, notice: Notice, tell: Callable[[Notice], None]) -> Visitor:
    """As an application says. Raises BadFrame for one that says something else."""
    try:
        was, prepared = notice.get("was"), notice.get("prepared")
        if was is not None:
            seat, life = was
            was = Address.parse(seat), _count(life)
        if prepared is not None:
            epoch, iteration = prepared
            prepared = Ticket(_count(epoch), _count(iteration))
        node, brings = Node.from_json(notice.get("node")), state_id(notice.get("brings"))
        addresses = read_addresses(notice.get("addresses"))
        facts = read_facts(notice.get("equipment"))
        return Visitor(id, node, tell, addresses, was, brings, prepared, facts)
    except (ValueError, TypeError) as error:
        raise BadFrame(f"no application: {error!s:.80}") from None


def read_facts(plain: Any) -> dict[str, str]:
    """On what somebody computes, by name. Raises ValueError for anything else."""
    if not isinstance(plain, dict) or len(plain) > MOST_FACTS:
        raise ValueError("no facts of a machine")
    for text in (*plain, *plain.values()):
        if type(text) is not str or len(text) > LONGEST_FACT or not text.isprintable():
            raise ValueError(f"no fact of a machine: {text!r:.40}")
    return plain


def _count(plain: Any) -> int:
    if type(plain) is not int:
        raise ValueError(f"not a number: {plain!r:.40}")
    return plain

"""A joiner's side of its join stream: finds the lead, applies, and hears what becomes of it.

On the network thread; what the lead says goes to its inbox. A stream that ended is taken up again,
for a bounded time, at all places where the lead may be.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from checkfree.core.errors import BadInput
from checkfree.core.ops import StateId
from checkfree.messages.control import Ticket
from checkfree.runtime.swarm.joining.dialback import MOST_ADDRESSES, asked_dial, dialled, look
from checkfree.runtime.swarm.joining.finder import Finder
from checkfree.runtime.swarm.joining.handshake import (
    JOIN_PROTOCOL,
    application,
    hear,
    is_proven,
    say,
    signed,
    stale_after,
)
from checkfree.runtime.swarm.placement.nodes import Node
from checkfree.runtime.swarm.presence.liveness import beat_every
from checkfree.runtime.swarm.transport.addresses import Place, best_first
from checkfree.runtime.swarm.transport.frames import BadFrame, Peer
from checkfree.runtime.swarm.transport.network_thread import NetworkThread, Said
from checkfree.runtime.swarm.transport.outbound import BROKEN_STREAM, in_short

ANSWER_WITHIN = 5.0  # seconds, for one try
ASKED_WITHIN = 10.0
"""Seconds between two things that a lead says: it beats meanwhile."""
MOST_GRANTED = 600.0
"""Seconds of silence beside the usual, whatever the lead says."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 1.0  # seconds between two tries


class Unreachable(Exception):
    """Nobody answers, or nobody who knows the token. One line."""


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class JoinClient:
    """``finder`` says where the lead may be, before every round of tries.
    ``was`` is the seat and life that this process has, for a lead that asks; ``brings`` and
    ``prepared`` are what it has left of an earlier life. ``equipment``: on what it computes."""

    def __init__(
        self,
        network: NetworkThread,
        secret: bytes,
        release: Mapping[str, str],
        finder: Finder,
        node: Node,
        equipment: Mapping[str, str] | None = None,
    ):
        self._network, self._secret, self._release = network, secret, release
        self.finder, self._node, self._equipment = finder, node, equipment
        self.was: tuple[str, int] | None = None
        self.brings: StateId | None = None
        self.prepared: Ticket | None = None
        self.welcome: dict[str, Any] = {}
        self._streams: Streams | None = None
        self._fell_silent = False
        """The last streams did not end: what they went over may be dead."""
        self._calling: set[asyncio.Future[None]] = set()

    async def take_up(self, within: float, told: Callable[[str], None]) -> dict[str, Any]:
        """Apply until somebody answers: the run, as the lead tells it. ``told`` is called with
        the first failure. Raises BadInput if we are refused, Unreachable after ``within`` s."""
        end, pause, first = time.monotonic() + within, FIRST_PAUSE, True
        why, places = "no address is known", self.finder.likeliest
        while True:  # members know us too; an address tells nobody apart: all have a loopback
            places = [place for place in places if place.id != self._network.endpoint.id]
            looks = await asyncio.gather(*(look(place.addresses[:1]) for place in places))
            for place, why_not in zip(places, looks, strict=True):
                try:
                    if why_not:
                        raise Unreachable(f"nobody can be reached there ({why_not})")
                    if self._fell_silent:
                        await self._network.endpoint.renew(place.id)
                    self._streams = await asyncio.wait_for(self._apply(place), ANSWER_WITHIN)
                    self._fell_silent = False
                    return self.welcome
                except Unreachable as error:
                    why = f"{place.addresses[0]}: {error}"
                except (BadFrame, *BROKEN_STREAM) as error:
                    short = in_short(error)
                    if "backoff" not in short:  # libp2p's own pause hides what was wrong
                        why = f"{place.addresses[0]}: {short}"
            if time.monotonic() + pause > end:
                raise Unreachable(why)
            if first:
                told(why)
            first = False
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            places = await self.finder.places(ask=not all(looks))

    async def _apply(self, place: Place) -> Streams:
        endpoint = self._network.endpoint
        reader, writer = await endpoint.call(place.id, place.addresses, JOIN_PROTOCOL)
        try:
            at, exact = (
                best_first(endpoint.addresses)[:MOST_ADDRESSES],
                (self.brings, self.prepared),
            )
            words = application(self._release, self._node, at, self.was, *exact, self._equipment)
            say(writer, signed(self._secret, endpoint.id, place.id, words))
            answer = await hear(reader)
            if "refused" in answer:
                raise BadInput(str(answer["refused"])[:400])
            if not is_proven(self._secret, place.id, endpoint.id, answer):
                raise BadInput(
                    "whoever answers at that address does not know the token: give address and "
                    "token of the same line"
                )
            if "welcome" not in answer:
                raise Unreachable("a member answers, and the lead has not yet")
            self.welcome = answer["welcome"]
            lead = Peer.from_json(self.welcome["peer"])
            self.finder.met(Place(lead.id, lead.addresses))
            return reader, writer
        except BaseException:
            with suppress(*BROKEN_STREAM):
                writer.close()
            raise

    async def ask(self, what: str) -> dict[str, Any]:
        """What the lead says, once it was taken up: the "status" of the run, or who can be
        "called". Raises one of BROKEN_STREAM or BadFrame."""
        assert self._streams is not None
        reader, writer = self._streams
        say(writer, {what: True})
        while True:
            said = await asyncio.wait_for(hear(reader), ASKED_WITHIN)
            self._call(said)
            self._say({"beat": 0})
            if isinstance(found := said.get(what), dict):
                return found

    def ready(self) -> None:
        """We can take a seat. From the main thread."""
        self.tell({"ready": True})

    def tell(self, notice: Mapping[str, Any]) -> None:
        """Nothing, while there is no lead. From the main thread."""
        self._network.loop.call_soon_threadsafe(self._say, notice)

    def follow(self, patience: float, retry: float) -> None:
        """Hand on what the lead says, and beat; take it up again when it ends. From the main
        thread, once."""
        self._network.start(self._follow(patience, retry))

    def _say(self, notice: Mapping[str, Any]) -> None:
        if self._streams is not None:
            with suppress(*BROKEN_STREAM):
                say(self._streams[1], notice)

    async def _follow(self, patience: float, retry: float) -> None:
        while True:
            why = await self._until_it_ends(patience)
            self._network.inbox.put(Said({"cut": why}))
            try:
                welcome = await self.take_up(retry, lambda why: None)
            except (BadInput, Unreachable) as error:
                self._network.inbox.put(Said({"lost": str(error)}))
                return
            self._network.inbox.put(Said({"again": welcome}))

    async def _until_it_ends(self, patience: float) -> str:
        assert self._streams is not None
        reader, writer = self._streams
        beats = asyncio.ensure_future(self._beat(patience))
        within = stale_after(patience)
        try:
            while True:
                said = await asyncio.wait_for(hear(reader), within)
                if "beat" not in said and not self._call(said):
                    self._network.inbox.put(Said(said))
                if "beat" not in said:
                    continue
                self._say({"beat": 0, "echo": said["beat"]})
                if type(granted := said.get("granted")) is float:
                    within = stale_after(patience) + min(max(0.0, granted), MOST_GRANTED)
        except asyncio.TimeoutError:
            self._fell_silent = True
            return f"the lead was silent for {within:.3g} s"
        except (BadFrame, *BROKEN_STREAM) as error:
            return f"its stream ended ({in_short(error)})"
        finally:
            beats.cancel()
            with suppress(*BROKEN_STREAM):
                writer.close()

    def _call(self, said: Mapping[str, Any]) -> bool:
        """Try to call whom the lead wants to know about; False: it has said something else."""
        if "dial" not in said:
            return False
        with suppress(ValueError, TypeError):
            places = asked_dial(said["dial"])
            task = asyncio.ensure_future(self._answer(places))
            self._calling.add(task)
            task.add_done_callback(self._calling.discard)
        return True

    async def _answer(self, places: Sequence[Place]) -> None:
        self._say(await dialled(self._network.endpoint, places))

    async def _beat(self, patience: float) -> None:
        while True:
            self._say({"beat": 0})
            await asyncio.sleep(beat_every(patience))

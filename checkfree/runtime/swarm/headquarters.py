"""The process that hosts lead, store, log and faults, and hears who is lost and who has come."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from checkfree.messages import codec
from checkfree.messages.control import Message
from checkfree.ops import LEAD, Address
from checkfree.runtime.actor import Actor
from checkfree.runtime.swarm.attendance import Attendance
from checkfree.runtime.swarm.control import line
from checkfree.runtime.swarm.courier import Courier, Item, News, Noticed, Order
from checkfree.runtime.swarm.frames import BadFrame, Peer
from checkfree.runtime.swarm.home import Home
from checkfree.runtime.swarm.host import Host
from checkfree.runtime.swarm.liveness import keep_vigil
from checkfree.runtime.swarm.seat import BROKEN

FAREWELL_WITHIN = 3.0
"""Seconds that workers get to say what they sent, once a run ended."""


ARRIVE_WITHIN = 60.0
"""Seconds that a replacement gets to open its streams."""


class Headquarters:
    """``reason`` says why the run was given up, ``stopped`` that somebody wants it to end."""

    def __init__(self, home: Home, seats: Iterable[tuple[Address, int]], patience: float):
        self._home, self._patience = home, patience
        self.reason, self.stopped = "", False
        self._courier = Courier(home.secret(), codec.Limits())
        self.host = Host({}, self._courier, self._handle)
        self.attendance = Attendance(seats, self._tell_lead, self._announce, self._replace)
        self._launcher: asyncio.StreamWriter | None = None

    def gather(self) -> bool:
        """Open for business, and wait until somebody sits at every seat. False: told to stop."""
        self._courier.open(self._home.sockets, self._home.identity())
        me = self._courier.sit(LEAD, 0)
        self._courier.wait(self._join_launcher())
        heard = self._courier.heard_at
        self._courier.start(keep_vigil(self._patience, heard, self._fell_silent))
        self.tell_launcher({"listening": me.to_json()})
        self.host.run(lambda: self.attendance.complete or self._over())
        self.attendance.started = True
        return not self._over()

    def run(self, actors: Mapping[Address, Actor], done: Callable[[], bool]) -> None:
        """Host these until they are ``done``, or the run is given up or stopped."""
        self.host.actors.update(actors)
        self.host.run(lambda: done() or self._over())

    def dismiss(self) -> tuple[dict[str, int], dict[str, int]]:
        """End everybody's run; what all together sent, as the ledger counts: messages, bytes."""
        self._leaving = set(self.attendance.present.values())
        for seat in self.attendance.present:
            self._courier.notify(seat, {"end": True})
        late = time.monotonic() + FAREWELL_WITHIN
        self._later(FAREWELL_WITHIN, Order({}))  # so that the host sees how late it is
        self.attendance.present.clear()  # nobody is lost any more
        self.attendance.lives.clear()
        self.host.actors.clear()
        self.host.run(lambda: not self._leaving or time.monotonic() > late)
        messages, nbytes = Counter(self.host.messages), Counter(self.host.bytes)
        for pulse in self._courier.pulses.values():
            messages.update(pulse["pulse"][0])
            nbytes.update(pulse["pulse"][1])
        return dict(messages), dict(nbytes)

    def status(self) -> dict[str, Any]:
        """Who is here, and what all together have refused to read."""
        refused = Counter(self._courier.post.refused)
        for pulse in list(self._courier.pulses.values()):
            refused.update(pulse["pulse"][2])
        peers = [peer.to_json() for peer in self.attendance.present.values()]
        return {"peers": peers, "dropped": dict(refused)}

    def close(self) -> None:
        self._courier.close()

    def _over(self) -> bool:
        return bool(self.reason) or self.stopped

    # --- what comes in ---------------------------------------------------------------------------

    def _handle(self, item: Item) -> None:
        match item:
            case News("opened", Peer() as peer):
                self._event("here", peer.seat, peer.life)
                self.attendance.arrived(peer)
            case News("closed", Peer() as peer, why):
                self._leaving.discard(peer)
                self._gone(peer, why)
            case News("silent" | "unreachable", Peer() as peer, why):
                self._gone(peer, why)
            case News("late", Peer(seat, life), why):
                if seat not in self.attendance.present:
                    self._lost(seat, life, why)
            case News("daemon", _, why):
                self.reason = self.reason or f"the lead: {why}"
            case Noticed(peer, notice):
                self._noticed(peer, notice)
            case Order(said):
                self._ordered(said)

    _leaving: set[Peer] = set()  # noqa: RUF012 (replaced, never changed, until somebody leaves)

    def _noticed(self, peer: Peer, notice: Mapping[str, Any]) -> None:
        match notice:
            case {"failed": str(reason)}:
                self.reason = self.reason or f"worker {peer.seat}: {reason}"
            case {"suspect": plain, "why": str(why)}:
                self._suspect(peer, plain, why)

    def _suspect(self, witness: Peer, plain: Any, why: str) -> None:
        """Somebody cannot reach another. Whoever is dead will be noticed to be; if not, what was
        lost between the two would be waited for in vain."""
        try:
            peer = Peer.from_json(plain)
        except BadFrame:
            return
        news = News("unreachable", peer, f"{witness.seat} cannot reach it: {why}")
        self._later(self._patience, news)

    def _gone(self, peer: Peer, why: str) -> None:
        if self.attendance.present.get(peer.seat) == peer:
            self._lost(peer.seat, peer.life, why)

    def _lost(self, seat: Address, life: int, why: str) -> None:
        if self.attendance.gone(seat, life, why):
            self._event("lost", seat, life, why)
        hopeless = self.attendance.hopeless()
        if hopeless is not None and not self.reason:
            self.reason = f"nobody could take seat {hopeless} ({why}): see {self._home.logs}"

    def _fell_silent(self, peer: Peer) -> None:
        self._courier.inbox.put(News("silent", peer, f"silent for {self._patience:g} s"))

    def _ordered(self, said: Mapping[str, Any]) -> None:
        match said:
            case {"stop": _}:
                self.stopped = True
            case {"gone": seat, "life": life, "code": code} if code == BROKEN:
                if self.attendance.lives.get(Address.parse(seat)) == life and not self.reason:
                    where = f"see {self._home.logs}"
                    self.reason = f"worker {seat} ended with exit code {code}: {where}"
            case {"gone": seat, "life": life, "code": code}:
                self._lost(Address.parse(seat), life, f"its process ended ({code})")

    # --- what goes out ---------------------------------------------------------------------------

    def kill(self, seat: Address, life: int) -> None:
        """Have a process killed, as a trace wants it."""
        self.tell_launcher({"strike": str(seat), "life": life})
        self._event("strike", seat, life)

    def _tell_lead(self, message: Message) -> None:
        self.host.post(LEAD, message)

    def _announce(self, notice: dict[str, Any]) -> None:
        for seat in self.attendance.present:
            self._courier.notify(seat, notice)

    def _replace(self, seat: Address, life: int, hollow: bool, why: str) -> None:
        self.tell_launcher({"replace": str(seat), "life": life, "hollow": hollow})
        self._later(ARRIVE_WITHIN, News("late", Peer(seat, life, "", ()), "it never arrived"))

    def _later(self, seconds: float, item: Item) -> None:
        loop, inbox = self._courier.loop, self._courier.inbox
        loop.call_soon_threadsafe(loop.call_later, seconds, inbox.put, item)

    def _event(self, what: str, seat: Address, life: int, why: str = "") -> None:
        event = {"at": time.time(), "event": what, "seat": str(seat), "life": life, "why": why}
        self.tell_launcher({"event": event})

    def tell_launcher(self, said: Mapping[str, Any]) -> None:
        """Thread-safe; in order."""
        self._courier.loop.call_soon_threadsafe(self._write, line(said))

    def _write(self, data: bytes) -> None:
        assert self._launcher is not None
        self._launcher.write(data)

    async def _join_launcher(self) -> None:
        reader, writer = await asyncio.open_unix_connection(os.fspath(self._home.control))
        self._launcher = writer
        writer.write(line({"secret": self._home.secret().hex()}))
        self._courier.start(self._listen(reader))

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while said := await reader.readline():
            self._courier.inbox.put(Order(json.loads(said)))
        self._courier.inbox.put(Order({"stop": "the launcher is gone"}))

"""A process that joined from elsewhere, at its seat: like a Seat, but nobody on its machine minds
it. Its lifeline tells whether its life is over; then it can apply again, as nobody in particular.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from checkfree.errors import BadInput, RunFailed
from checkfree.messages.control import Leaving
from checkfree.ops import LEAD, Address
from checkfree.runtime.swarm.joining.lifeline import Lifeline
from checkfree.runtime.swarm.presence.liveness import beat_every
from checkfree.runtime.swarm.presence.pulses import pulse_of
from checkfree.runtime.swarm.presence.stall import Marks
from checkfree.runtime.swarm.seat import FLUSH_WITHIN
from checkfree.runtime.swarm.transport.courier import Courier, Item, News, Noticed, Said, beat
from checkfree.runtime.swarm.transport.frames import Peer
from checkfree.runtime.swarm.transport.host import Host
from checkfree.worker import StageWorker

ASK_EVERY = 2.0  # seconds


class After(Enum):
    """What comes after a life at a seat."""

    ENDED = "the run ended"
    LEFT = "left, with its state handed on"
    OVER = "its life is over"
    LOST = "the lead is gone for good"
    BROKEN = "the worker failed"


class Guest:
    """``say`` is told what happens, in words."""

    def __init__(self, courier: Courier, lifeline: Lifeline, say: Callable[[str], None]):
        self._courier, self._lifeline, self._say = courier, lifeline, say
        self._after: After | None = None
        self._incarnation = lifeline.welcome["incarnation"]
        self._suspects: dict[Address, tuple[Peer, str]] = {}
        self._marks = Marks()
        self.why = ""

    def wait(self) -> Mapping[str, Any] | None:
        """Until there is a seat for us; None: ``after`` says what else."""
        birth: list[Mapping[str, Any]] = []
        while not birth and self._after is None:
            match item := self._courier.inbox.get():
                case Said({"birth": dict(found)}):
                    birth.append(found)
                case Said({"leave": _}):
                    self._after = After.LEFT
                case Said({"again": _}):
                    self._after = After.OVER  # whoever leads now has not heard of us
                case _:
                    self._handle(item)
        return birth[0] if birth else None

    @property
    def after(self) -> After:
        assert self._after is not None
        return self._after

    def run(
        self, birth: Mapping[str, Any], make: Callable[[], StageWorker], patience: float
    ) -> After:
        """Sit down, and do what the lead says."""
        seat, life = Address.parse(birth["seat"]), birth["life"]
        self._seat, self._life = seat, life
        me = self._courier.sit(seat, life)
        lead = Peer.from_json(birth["peer"])
        self._courier.learn(lead)
        self._courier.post.lead_id = lead.id
        self._courier.start(self._lifeline.finder.stay_known(lambda: me))
        self._lifeline.was = (str(seat), life)
        try:
            worker = self._worker = make()
            watch = self._marks.watching(worker)
            self._host = Host({seat: worker}, self._courier, self._handle, watch)
            self._courier.start(beat(self._courier.post, beat_every(patience), self._pulse))
            self._host.run(lambda: self._after is not None or worker.dismissed)
            self._after = self._after or After.LEFT
        except Exception as error:
            traceback.print_exc()
            self.why = _told(error)
            self._courier.notify(LEAD, {"failed": self.why})
            self._after = After.BROKEN
        self._say_goodbye()
        return self.after

    def _say_goodbye(self) -> None:
        if self._after in (After.ENDED, After.LEFT):
            self._courier.notify(LEAD, self._pulse())
        if self._after in (After.ENDED, After.LEFT, After.BROKEN):
            self._courier.flush(FLUSH_WITHIN)

    def _handle(self, item: Item) -> None:
        match item:
            case Noticed(Peer(seat), {"end": True}) if seat == LEAD:
                self._over(After.ENDED, "the run ended")
            case Noticed(Peer(seat), {"die": life}) if seat == LEAD and life == self._life:
                self._over(After.OVER, "struck, as the run's trace wants it")
            case News("daemon", _, why):
                self._over(After.OVER, why)
            case News("opened", Peer(seat)) if seat == LEAD:
                for peer, why in self._suspects.values():  # another lead may not know
                    self._courier.notify(LEAD, {"suspect": peer.to_json(), "why": why})
            case News("broken", Peer() as peer, why) if peer.seat != LEAD:
                self._suspects[peer.seat] = peer, why
                self._courier.notify(LEAD, {"suspect": peer.to_json(), "why": why})
            case Said(notice):
                self._said(notice)

    def _said(self, notice: Mapping[str, Any]) -> None:
        match notice:
            case {"end": True}:
                self._over(After.ENDED, "the run ended")
            case {"over": str(why)}:
                self._over(After.OVER, why)
            case {"lost": str(why)}:
                self._over(After.LOST, why)
            case {"cut": str(why)}:
                self._say(f"the lead is out of reach ({why}); looking for it")
            case {"again": dict(welcome)} if welcome["incarnation"] != self._incarnation:
                self._over(After.OVER, "the run was started again from a snapshot")
            case {"again": dict(welcome)}:
                self._say("the lead is there again")
                self._courier.learn(Peer.from_json(welcome["peer"]))
            case {"leave": _}:
                self._courier.start(self._ask_to_leave())

    async def _ask_to_leave(self) -> None:
        """Until it is granted: the lead that was asked may die, and the next one is deaf to it
        until it has gathered all."""
        while True:
            self._courier.send(LEAD, Leaving(self._seat, self._life))
            await asyncio.sleep(ASK_EVERY)

    def _over(self, after: After, why: str) -> None:
        self._after, self.why = self._after or after, self.why or why

    def _pulse(self) -> dict[str, Any]:
        host, doing = self._host, self._marks.doing()
        refused, unusable = self._courier.post.refused, self._worker.dropped
        pulse = pulse_of(host.messages, host.bytes, refused, unusable)
        return {"pulse": pulse, "doing": doing and doing.to_json()}


def _told(error: Exception) -> str:
    named = isinstance(error, (BadInput, RunFailed))
    return str(error) if named else f"{type(error).__name__}: {error}"

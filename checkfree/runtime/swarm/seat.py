"""A process that hosts one worker."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any

from checkfree.errors import BadInput, RunFailed
from checkfree.messages import codec
from checkfree.ops import LEAD, Address
from checkfree.runtime.actor import Actor
from checkfree.runtime.swarm.courier import Courier, Item, News, Noticed, beat
from checkfree.runtime.swarm.frames import Peer
from checkfree.runtime.swarm.home import Home
from checkfree.runtime.swarm.host import Host
from checkfree.runtime.swarm.liveness import beat_every

LEFT, CUT_OFF, BROKEN = 0, 1, 3
"""Exit codes: the run ended; lead or daemon is gone; the worker itself failed, and said why."""
FLUSH_WITHIN = 5.0  # seconds


class Seat:
    """Opens its streams, then does what the lead says until the lead ends the run."""

    def __init__(self, home: Home, limits: codec.Limits):
        self._courier = Courier(home.secret(), limits)
        self._courier.open(home.sockets, home.identity())
        self._code: int | None = None

    def run(self, birth: Mapping[str, Any], make: Callable[[], Actor], patience: float) -> int:
        """Host what ``make`` makes at the seat of ``birth``. Returns the process' exit code."""
        seat = Address.parse(birth["seat"])
        self._courier.sit(seat, birth["life"])
        self._courier.learn(Peer.from_json(birth["peer"]))
        try:
            self._host = Host({seat: make()}, self._courier, self._handle)
            self._courier.start(beat(self._courier.post, beat_every(patience), self._pulse))
            self._host.run(lambda: self._code is not None)
        except Exception as error:
            traceback.print_exc()
            self._courier.notify(LEAD, {"failed": _told(error)})
            self._code = BROKEN
        if self._code == LEFT:
            self._courier.notify(LEAD, self._pulse())
        if self._code != CUT_OFF:
            self._courier.flush(FLUSH_WITHIN)
        self._courier.close()
        assert self._code is not None
        return self._code

    def _handle(self, item: Item) -> None:
        match item:
            case Noticed(peer, {"end": True}) if peer.seat == LEAD:
                self._code = LEFT
            case News("daemon"):
                self._code = CUT_OFF
            case News("closed" | "broken", Peer(seat)) if seat == LEAD:
                self._code = CUT_OFF
            case News("broken", Peer() as peer, why):
                suspect = {"suspect": peer.to_json(), "why": why}
                self._courier.notify(LEAD, suspect)

    def _pulse(self) -> dict[str, Any]:
        """That we live, what we have sent so far, and what we have refused."""
        refused = dict(self._courier.post.refused)
        return {"pulse": [dict(self._host.messages), dict(self._host.bytes), refused]}


def _told(error: Exception) -> str:
    if isinstance(error, (BadInput, RunFailed)):
        return str(error)
    return f"{type(error).__name__}: {error}"

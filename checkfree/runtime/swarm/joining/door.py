"""The lead's door: other machines may come in by it, and have the seats that are vacant.

With a door no process is ordered from the launcher: a vacancy waits for whoever applies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkfree.ops import Address
from checkfree.runtime.swarm.joining.candidates import Candidates
from checkfree.runtime.swarm.joining.discovery import Discovery
from checkfree.runtime.swarm.joining.invitation import Invitation, Place, Register, listen_address
from checkfree.runtime.swarm.joining.needs import missing_stages
from checkfree.runtime.swarm.joining.reception import Reception, Terms
from checkfree.runtime.swarm.transport.courier import Courier, Visit, Visitor
from checkfree.runtime.swarm.transport.frames import Peer

Lives = Mapping[Address, int]


@dataclass(frozen=True)
class Frame:
    """Where the door is: ``identity`` is the key file that makes our libp2p id the same each time,
    ``register`` the file of where members were; ``release`` and ``run`` are what a joiner is
    compared with, and told."""

    invitation: Invitation
    identity: Path
    release: Mapping[str, str]
    run: Mapping[str, Any]
    register: Path
    resumed: bool = False
    """The run goes on: its states are in the store, and nobody begins with the first weights."""

    @property
    def listen(self) -> str:
        """As libp2p writes it."""
        return listen_address(self.invitation.host, self.invitation.port)


class Door:
    """``lives`` and ``taken`` tell who is awaited where, and who sits. In the main thread."""

    def __init__(
        self,
        frame: Frame,
        courier: Courier,
        patience: float,
        taken: Callable[[], Collection[Address]],
    ):
        self.frame = frame
        self._courier, self._patience, self._taken = courier, patience, taken
        self._me: Peer | None = None
        self._book = Register(frame.register)
        self._visitors: dict[str, Visitor] = {}
        self.candidates = Candidates(taken, self._told)

    def open(self, me: Peer) -> None:
        """Let them come."""
        self._me = me
        run = {**self.frame.run, "patience": self._patience}
        secret = self.frame.invitation.secret
        terms = Terms(secret, self._patience, self.frame.release, lambda: {**run, **self._told()})
        self._courier.wait(Reception(self._courier, terms).open())
        self._courier.start(self._be_found(me))

    async def _be_found(self, me: Peer) -> None:
        """Members that an earlier lead had may still be there, and look for us."""
        discovery = Discovery(self._courier.post, self.frame.invitation.secret)
        await discovery.join(self._book.read())
        await discovery.announce(lambda: me)

    def arrived(self, peer: Peer) -> None:
        """Somebody took its seat."""
        self.candidates.arrived(peer.id)
        self._book.add(Place(peer.id, peer.addresses))

    def visited(self, visit: Visit, lives: Lives) -> tuple[Address, int] | None:
        """Returns the seat and life that somebody was on the way to, who is gone."""
        visitor = visit.visitor
        self._visitors[visitor.id] = visitor
        match visit.what:
            case "back" if visitor.was is not None:
                self._welcome_back(visitor, visitor.was, lives)
            case "ready":
                self.candidates.came(visitor.id, visitor.tell)
            case "left":
                del self._visitors[visitor.id]
                return self.candidates.left(visitor.id)
        return None

    def over(self, id: str, why: str) -> None:
        """That process has no seat any more; if it can hear us, it may apply again."""
        if id in self._visitors:
            self._visitors[id].tell({"over": why})

    def waiting(self, lives: Lives) -> dict[str, Any]:
        """An event: which seats are vacant, which stages have nobody, and who stands by."""
        taken = {*self._taken(), *(seat for seat, _ in self.candidates.on_the_way.values())}
        return {
            "at": time.time(),
            "event": "waiting",
            "vacant": [str(seat) for seat in sorted(self.candidates.vacant)],
            "stages": list(missing_stages(lives, taken)),
            "spares": len(self.candidates.standing_by),
        }

    def close(self) -> None:
        """The run is over, also for those who stand by."""
        for tell in self.candidates.standing_by.values():
            tell({"end": True})

    def _welcome_back(self, visitor: Visitor, was: tuple[Address, int], lives: Lives) -> None:
        seat, life = was
        sits = lives.get(seat) == life
        visitor.tell({"sits": True} if sits else {"over": f"{seat} is in another's hands by now"})

    def _told(self) -> Mapping[str, Any]:
        assert self._me is not None
        return {"peer": self._me.to_json()}

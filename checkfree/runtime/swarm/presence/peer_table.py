"""Who sits where, by what streams and silence tell: the lead's side of membership.

Knows no pipeline. Every loss, whatever its cause, takes the same way: that life is over, a
replacement is ordered (which first kills whatever may be left of the old one), the lead is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from checkfree.core.ops import Address, Location, StateId
from checkfree.messages.control import Joined, Lost, Message
from checkfree.runtime.swarm.transport.frames import Peer

NO_SHOWS = 4
"""So many in a row may die on their way to a seat; one more, and it is no accident."""


class PeerTable:
    """``tell`` delivers to the lead, ``announce`` to every peer, ``order`` asks the launcher for
    a process at a seat: (seat, life, uninitialized, why)."""

    def __init__(
        self,
        seats: Iterable[tuple[Address, int]],
        tell: Callable[[Message], None],
        announce: Callable[[dict[str, Any]], None],
        order: Callable[[Address, int, bool, str], None],
    ):
        self.lives = dict(seats)
        """Of each seat the life that sits there, or that is awaited."""
        self.present: dict[Address, Peer] = {}
        self.started = False
        self.replacing = True
        """Whether anybody is sent to a seat that is lost once the run has started."""
        self._no_shows: Counter[Address] = Counter()
        self._tell, self._announce, self._order = tell, announce, order

    @property
    def complete(self) -> bool:
        """Somebody sits at every seat."""
        return self.present.keys() == self.lives.keys()

    def awaits(self, peer: Peer) -> bool:
        """It is of the life that sits at its seat, or is to."""
        known = self.present.get(peer.seat, peer)
        return self.lives.get(peer.seat) == peer.life and known == peer

    def settled(self, seat: Address, life: int) -> bool:
        """That this life is over was noticed, and somebody sits there again, or nobody will."""
        if not self.replacing and self.lives[seat] > life:
            return True
        return seat in self.present and self.present[seat].life > life

    def hopeless(self) -> Address | None:
        """A seat that one process after the other was sent to, and none arrived at."""
        return next((seat for seat, count in self._no_shows.items() if count > NO_SHOWS), None)

    def arrived(
        self, peer: Peer, brings: StateId | None = None, at: Location | None = None
    ) -> None:
        """A peer has opened its stream to us; ``brings``: a state that it has, ``at``: where it
        is."""
        if self.lives.get(peer.seat) != peer.life or peer.seat in self.present:
            return  # of a life that is over
        self.present[peer.seat] = peer
        self._no_shows[peer.seat] = 0
        self._announce({"peers": [known.to_json() for known in self.present.values()]})
        if self.started:
            self._tell(Joined(peer.seat, peer.life, brings, at))

    def fill(self, seats: Mapping[Address, int]) -> None:
        """Have these seats, which stood empty from the start, taken in these lives."""
        for seat, life in seats.items():
            self.lives[seat] = life
            if self.replacing:
                self._order(seat, life, True, "it stood empty")

    def gone(self, seat: Address, life: int, why: str, *, silent: bool = False) -> bool:
        """This life is over; ``silent``: all that is known is that it can't be heard. False if
        that is old news."""
        if self.lives.get(seat) != life:
            return False
        self._no_shows[seat] += self.present.pop(seat, None) is None
        self.lives[seat] = life + 1
        if self.started:
            self._tell(Lost(seat, life, silent))
        self._order(seat, life + 1, self.started, why)
        return True

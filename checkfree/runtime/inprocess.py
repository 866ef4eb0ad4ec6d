"""Host every actor in one thread and carry messages between them until nothing moves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

from checkfree.core.ops import LEAD, Address, Location
from checkfree.messages.control import Joined, Lost, Message, Outgoing
from checkfree.runtime.actor import Actor, Traffic

OnDelivery = Callable[[Address, Message], None]


class Mortal(Actor, Protocol):
    """An actor that can be lost: a StageWorker."""

    life: int

    def destroy(self) -> None:
        """Overwrite all that dies with it."""


class InProcess:
    """``spawn(seat, life)`` makes the replacement of a lost worker; ``pick(n)`` says which of n
    pending messages is delivered next, by default the oldest."""

    def __init__(
        self,
        actors: Mapping[Address, Actor],
        spawn: Callable[[Address, int], Mortal],
        pick: Callable[[int], int] | None = None,
    ):
        self.actors: dict[Address, Actor] = dict(actors)
        self.traffic = Traffic()
        self.delivered = 0
        self._spawn, self._pick = spawn, pick
        self._pending: deque[Outgoing] = deque()

    def post(self, to: Address, message: Message) -> None:
        """Send from outside."""
        self._pending.append((to, message))

    def kill(self, seat: Address) -> int:
        """Lose a worker with all that it holds, and tell the lead. Returns the life that ended."""
        worker: Mortal = self.actors.pop(seat)  # type: ignore[assignment]
        worker.destroy()
        self._pending = deque((to, m) for to, m in self._pending if to != seat)
        self.post(LEAD, Lost(seat, worker.life))
        return worker.life

    def join(self, seat: Address, life: int, at: Location | None = None) -> None:
        """Seat an uninitialized replacement, and tell the lead; ``at``: as if it were there."""
        self.actors[seat] = self._spawn(seat, life)
        self.post(LEAD, Joined(seat, life, at=at))

    def run(self, on_delivery: OnDelivery | None = None) -> None:
        """Until no message is pending and no actor can move."""
        for address in sorted(self.actors):
            self._exhaust(address)
        while self._pending:
            to, message = self._next()
            if to in self.actors:  # a message to the dead is dropped, as on any network
                self.actors[to].deliver(message)
                self._exhaust(to)
            self.delivered += 1
            if on_delivery is not None:
                on_delivery(to, message)

    def _next(self) -> Outgoing:
        if self._pick is None:
            return self._pending.popleft()
        place = self._pick(len(self._pending))
        self._pending.rotate(-place)
        chosen = self._pending.popleft()
        self._pending.rotate(place)
        return chosen

    def _exhaust(self, address: Address) -> None:
        actor = self.actors.get(address)
        while actor is not None and (out := actor.advance()) is not None:
            for _, message in out:
                self.traffic.count(message)
            self._pending.extend(out)

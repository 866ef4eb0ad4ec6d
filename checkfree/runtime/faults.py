"""Strikes the seats that a trace names, when the lead says that their tick is due."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Protocol

from checkfree.core.ops import LEAD, Address
from checkfree.messages.control import Due, Message, Outgoing, Struck

Strikes = Callable[[int], Collection[Address]]
"""The seats that are lost before the first op of a tick."""


class ActorHost(Protocol):
    """What can take a worker's life and seat another."""

    def kill(self, seat: Address) -> int: ...

    def join(self, seat: Address, life: int) -> None: ...


class Faults:
    """An actor. ``strikes(tick)`` names the seats that are lost before a tick's first op; each
    tick strikes once, however often it comes (semantics 4, 5). Replacements sit down at once."""

    def __init__(self, host: ActorHost, strikes: Strikes):
        self._host, self._strikes = host, strikes
        self._struck: set[int] = set()
        self._inbox: deque[Due] = deque()

    def deliver(self, message: Message) -> None:
        if isinstance(message, Due):
            self._inbox.append(message)

    def advance(self) -> list[Outgoing] | None:
        if not self._inbox:
            return None
        message = self._inbox.popleft()
        seats = [] if message.tick in self._struck else sorted(self._strikes(message.tick))
        if seats:
            self._struck.add(message.tick)
        lost = tuple((seat, self._host.kill(seat)) for seat in seats)
        joined = tuple((seat, life + 1) for seat, life in lost)
        for seat, life in joined:
            self._host.join(seat, life)
        return [(LEAD, Struck(message.epoch, message.tick, lost, joined))]

"""Failures that a trace names, as real SIGKILLs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection

from checkfree.core.ops import LEAD, Address
from checkfree.messages.control import Due, Message, Outgoing, Struck
from checkfree.runtime.swarm.presence.peer_table import PeerTable


class RealFaults:
    """The actor at the faults' address; see ``checkfree.runtime.faults.Faults``, whose rules it
    keeps: each tick strikes once, all its seats together, before its first op (semantics 4, 5).

    It answers when every seat that it struck was noticed to be lost and is taken again, or will
    not be, so that the lead plans one repair for all of them. ``strike`` does it, for a tick and
    all (seat, life) of it at once; ``struck`` are the ticks that another lead had struck.
    """

    def __init__(
        self,
        peer_table: PeerTable,
        strike: Callable[[int, Collection[tuple[Address, int]]], None],
        strikes: Callable[[int], Collection[Address]],
        struck: Collection[int] = (),
    ):
        self._peer_table, self._do, self._strikes = peer_table, strike, strikes
        self._struck = set(struck)
        self._inbox: deque[Due] = deque()
        self._due: Due | None = None
        self._lost: tuple[tuple[Address, int], ...] = ()

    def deliver(self, message: Message) -> None:
        if isinstance(message, Due):
            self._inbox.append(message)

    def advance(self) -> list[Outgoing] | None:
        if self._inbox:
            self._strike(self._inbox.popleft())
            return []
        settled, present = self._peer_table.settled, self._peer_table.present
        if self._due is None or not all(settled(seat, life) for seat, life in self._lost):
            return None
        joined = tuple((s, present[s].life) for s, _ in self._lost if s in present)
        answer = Struck(self._due.epoch, self._due.tick, self._lost, joined)
        self._due, self._lost = None, ()
        return [(LEAD, answer)]

    def _strike(self, due: Due) -> None:
        seats = [] if due.tick in self._struck else sorted(self._strikes(due.tick))
        self._due = due
        self._lost = tuple((seat, self._peer_table.lives[seat]) for seat in seats)
        if self._lost:
            self._struck.add(due.tick)
            self._do(due.tick, self._lost)

"""Who would like to leave, and their states, which they hand on first so that nothing is lost.

Whoever has a living replica may go as soon as nobody works. The last one of a stage first sends
its whole state, moments included, to the store; its seat is then rebuilt from that, exactly, by
whoever comes, however late. A handed-on state is good for the iteration that it is of alone: as
its stage has nobody, no other can follow before it is used, or given up by a rollback.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from checkfree.lead.desk import Desk
from checkfree.messages.control import HANDOVER, Archive, Archived, Dismissed, Leaving, Push
from checkfree.ops import STORE, Address, Keep, Recipe, Repair, Source


class Farewells:
    """``states``: of which stages the store has what the last one there handed on, and where: its
    shelf and version."""

    def __init__(self, desk: Desk):
        self._desk = desk
        self.states: dict[int, tuple[int, int]] = {}
        self._leaving: dict[Address, int] = {}
        self._handing: dict[int, tuple[Address, ...]] = {}

    def deliver(self, message: Leaving) -> None:
        """Somebody asks."""
        if self._desk.members.lives.get(message.worker) == message.life:
            self._leaving[message.worker] = message.life

    def take_over(self, asked: Iterable[Leaving]) -> None:
        """Who asked while nobody led."""
        for message in asked:
            self.deliver(message)

    def archived(self, message: Archived) -> None:
        """What these handed on is safe: they may go when nobody works."""
        self._desk.keeping.archived(message)
        version = self._desk.progress.committed
        for seat in self._handing.pop(message.shelf, ()):
            self.states[seat.stage] = (message.shelf, version)

    def rebuilt(self, seats: Collection[Address]) -> None:
        """These go on from what they were rebuilt from; what was handed on is history."""
        for seat in seats:
            self.states.pop(seat.stage, None)

    def due(self) -> bool:
        """Let go whoever may; order the states of the others. True: those are on their way."""
        self._forget_gone()
        for seat in sorted(self._leaving):
            if self._may_go(seat):
                self._dismiss(seat)
        last = tuple(seat for seat in sorted(self._leaving) if seat in self._desk.members.alive)
        if not last:
            return False
        self._order(last)
        return True

    def repair(self, lost: Collection[Address], refused: Collection[Source]) -> Repair | None:
        """How to rebuild those whose states were handed on; None: there are none."""
        committed = self._desk.progress.committed
        living = {seat.stage for seat in self._desk.members.alive}
        recipes = {}
        for seat in sorted(lost):
            source = Source(STORE, seat.stage, committed)
            _, version = self.states.get(seat.stage, (0, -1))
            if version == committed and seat.stage not in living and source not in refused:
                recipes[seat] = Recipe(HANDOVER, (source,))
        return Repair(recipes, committed) if recipes else None

    def _forget_gone(self) -> None:
        members = self._desk.members
        self._leaving = {
            seat: life
            for seat, life in self._leaving.items()
            if members.lives[seat] == life and members.holds(seat)
        }

    def _may_go(self, seat: Address) -> bool:
        members = self._desk.members
        twin = any(other.stage == seat.stage and other != seat for other in members.alive)
        handed = self.states.get(seat.stage, (0, -1))[1] == self._desk.progress.committed
        return seat in members.hollow or twin or handed

    def _dismiss(self, seat: Address) -> None:
        desk, life = self._desk, self._leaving.pop(seat)
        desk.members.leave(seat)
        desk.keeping.lose(seat)
        desk.shadowing.lose(seat, desk.progress.committed)
        desk.advance_epoch()
        desk.send(seat, Dismissed(seat, life))

    def _order(self, owners: tuple[Address, ...]) -> None:
        desk, p = self._desk, self._desk.progress
        known = tuple(sorted({shelf for shelf, _ in self.states.values()}))
        self._handing = {p.epoch: owners}
        desk.keeping.expect(HANDOVER)
        note = {"committed": p.committed, "tick": p.tick, "stages": [s.stage for s in owners]}
        desk.send(STORE, Archive(p.epoch, HANDOVER, p.epoch, owners, known, note))
        for owner in owners:
            keep = Keep(owner, STORE, "state", "after")
            desk.send(owner, Push(p.epoch, keep, p.committed, HANDOVER, p.epoch))

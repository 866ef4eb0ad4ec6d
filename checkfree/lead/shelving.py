"""What goes to shelves, and to neighbours, between two iterations: all at once or not at all."""

from __future__ import annotations

from dataclasses import replace

from checkfree.lead.desk import Desk
from checkfree.lead.history import History
from checkfree.membership import first_seats
from checkfree.messages.control import (
    CHECKPOINT,
    RESUME,
    WEIGHTS,
    Archive,
    Archived,
    Outgoing,
)
from checkfree.ops import STORE, Address


class Shelving:
    """``finished``: the weights of the whole run are stored."""

    def __init__(self, desk: Desk):
        self._desk = desk
        self._stored_at = desk.progress.tick if desk.progress.tick else -1
        self.finished = False

    def due(self) -> bool:
        """Order what is due next; False if nothing is."""
        return self._archives() or self._copies()

    def weights(self) -> bool:
        """Order the trained weights stored."""
        members, committed = self._desk.members, self._desk.progress.committed
        return self._archive(WEIGHTS, committed, first_seats(members.alive))

    def archived(self, message: Archived) -> None:
        """The store has it."""
        self._desk.keeping.archived(message)
        if message.area == CHECKPOINT:
            self._desk.update(checkpoints=message.offered)
        self.finished = self.finished or message.area == WEIGHTS

    def take_over(self, history: History) -> None:
        """Another lead may have ordered the snapshot that is due, and it may not have come."""
        if self._desk.progress.tick not in history.snapshots:
            self.give_up()

    def give_up(self) -> None:
        """Somebody was lost meanwhile: all of it will be ordered anew."""
        self._desk.keeping.give_up()
        self._stored_at = -1

    def snapshot_due(self) -> bool:
        """One for ``--resume`` is next; the shadows on their way have to be there by then."""
        every, tick = self._desk.terms.resume_every, self._desk.progress.tick
        return bool(every) and tick % every == 0 and self._stored_at != tick

    def _archives(self) -> bool:
        desk, p = self._desk, self._desk.progress
        owners = tuple(keep.owner for keep in desk.due_keeps() if keep.holder == STORE)
        if owners and p.committed not in p.checkpoints:
            return self._archive(CHECKPOINT, p.committed, owners)
        if self.snapshot_due():
            self._stored_at = p.tick  # after the checkpoint, so that the snapshot knows of it
            return self._archive(RESUME, p.tick, self._seats_of_snapshot())
        return False

    def _copies(self) -> bool:
        wanted = [keep for keep in self._desk.due_keeps() if keep.at == "prepare"]
        return self._ordered(self._desk.keeping.refresh(wanted, self._desk.progress))

    def _seats_of_snapshot(self) -> tuple[Address, ...]:
        """One of each stage, and whoever else holds something for others."""
        desk, alive = self._desk, self._desk.members.alive
        holding = {Address.parse(holder) for _, holder, *_ in desk.shadowing.entries()}
        if desk.strategy.room.memory:
            holding = set(alive)
        return tuple(sorted({*first_seats(alive), *(holding & alive)}))

    def _archive(self, area: str, shelf: int, seats: tuple[Address, ...]) -> bool:
        desk, members = self._desk, self._desk.members
        progress = replace(desk.progress, shadows=desk.shadowing.entries())
        note = {
            "progress": progress.to_json(),
            "lives": dict(members.names()),
            "absent": dict(members.absent()),
        }
        archive = Archive(progress.epoch, area, shelf, seats, progress.checkpoints, note)
        return self._ordered(desk.keeping.archive(archive, progress.committed))

    def _ordered(self, orders: list[Outgoing]) -> bool:
        self._desk.out += orders
        return bool(orders)

"""What goes to shelves, and to neighbours, between two iterations: all at once or not at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from checkfree.core.ops import STORE, Address
from checkfree.lead.history import History
from checkfree.lead.iteration import Transaction
from checkfree.lead.membership import first_seats
from checkfree.lead.state import LeadState
from checkfree.messages.control import (
    AVERAGE,
    CHECKPOINT,
    RESUME,
    WEIGHTS,
    Archive,
    Archived,
    Outgoing,
)
from checkfree.recovery.shadow.ledger import Entry


class Checkpointing:
    """``finished``: the weights of the whole run are stored.

    Snapshots for ``--resume`` are made in one of two ways. One process stops for them. A swarm
    goes on: states leave with a commit and travel beside the next iterations, one snapshot at a
    time, so that over a line too narrow for all of them some are left out.
    """

    def __init__(self, lead_state: LeadState):
        self._lead_state = lead_state
        self._stored_at = lead_state.progress.tick if lead_state.progress.tick else -1
        self._averaged_at = -1
        """The last version that was stored for the average."""
        self.finished = False
        self._versions: dict[int, int] = {}
        """Of the snapshots on their way, by tick."""
        self._travels = False
        """One is, and all whose states it has are alive."""

    def due(self) -> bool:
        """Order what is due next; False if nothing is."""
        lead_state, p = self._lead_state, self._lead_state.progress
        owners = tuple(upload.owner for upload in lead_state.due_uploads())
        if owners and p.committed not in p.checkpoints:
            return self._archive(CHECKPOINT, p.committed, owners)
        if self._average_due():
            self._averaged_at = p.committed
            return self._archive(AVERAGE, p.committed, first_seats(lead_state.members.alive))
        if self.snapshot_due():
            self._stored_at = p.tick  # after the checkpoint, so that the snapshot knows of it
            self._versions[p.tick] = p.committed
            return self._archive(RESUME, p.tick, self._seats_of_snapshot())
        return self._ordered(lead_state.keeping.refresh(lead_state.due_mirrors(), p))

    def weights(self) -> bool:
        """Order the trained weights stored. If no validation has seen them, whoever has some that
        may have gone too far says so instead."""
        members, p = self._lead_state.members, self._lead_state.progress
        doubted = p.validated_at != p.tick
        return self._archive(WEIGHTS, p.committed, first_seats(members.alive), doubted=doubted)

    def archived(self, message: Archived) -> None:
        """The store has it."""
        self._lead_state.keeping.archived(message)
        if message.area == CHECKPOINT:
            self._lead_state.update(checkpoints=message.offered)
        self.finished = self.finished or message.area == WEIGHTS

    def snapshot(self, message: Archived) -> None:
        """One is whole, and stays good until the run goes back behind it."""
        lead_state = self._lead_state
        if message.shelf == self._stored_at and message.epoch == lead_state.progress.epoch:
            lead_state.keeping.archived(message)
        made = dict(lead_state.progress.snapshots)
        if message.shelf in self._versions:
            made[message.shelf] = self._versions.pop(message.shelf)
            self._travels = self._travels and bool(self._versions)
        good = {tick: version for tick, version in made.items() if tick in message.offered}
        lead_state.update(snapshots=tuple(sorted(good.items())))

    def go_back(self, version: int) -> None:
        """What is newer is of another course."""
        self._versions = {tick: v for tick, v in self._versions.items() if v <= version}
        good = ((tick, v) for tick, v in self._lead_state.progress.snapshots if v <= version)
        self._lead_state.update(snapshots=tuple(good))

    def last(self) -> bool:
        """Order one that all wait for, before the run is stopped. False: there is one."""
        lead_state, p = self._lead_state, self._lead_state.progress
        if p.tick in dict(p.snapshots):
            return False
        lead_state.advance_epoch()  # it overtakes the one on its way
        self._stored_at = p.tick
        self._versions[p.tick] = p.committed
        return self._archive(RESUME, p.tick, self._seats_of_snapshot())

    def take_over(self, history: History) -> None:
        """Another lead may have ordered the snapshot that is due, and it may not have come."""
        if self._lead_state.progress.tick not in dict(self._lead_state.progress.snapshots):
            self.give_up()

    def give_up(self) -> None:
        """Somebody was lost meanwhile: all of it will be ordered anew."""
        self._lead_state.keeping.give_up()
        self._stored_at = self._averaged_at = -1

    def lose(self) -> None:
        """Somebody: the snapshot on its way may never be whole."""
        self._travels = False

    def snapshot_due(self) -> bool:
        """One that all stop for is next; the shadows on their way have to be there by then."""
        return (
            self._due_at(self._lead_state.progress.tick) and not self._lead_state.terms.background
        )

    def _average_due(self) -> bool:
        """Weights that enter the average; the last ones do as they are."""
        committed, every = (
            self._lead_state.progress.committed,
            self._lead_state.terms.average_every,
        )
        due = every and committed and committed % every == 0
        return bool(due) and self._averaged_at != committed

    def _due_at(self, tick: int) -> bool:
        every = self._lead_state.terms.resume_every
        return bool(every) and tick % every == 0 and self._stored_at != tick

    def coming(self) -> tuple[Address, ...]:
        """Whose states go to the store with the commit of the next iteration."""
        lead_state, p = self._lead_state, self._lead_state.progress
        last = p.committed + 1 >= lead_state.terms.iterations  # then the weights are stored
        wanted = lead_state.terms.background and self._due_at(p.tick + 1) and not last
        return self._seats_of_snapshot() if wanted and not self._travels else ()

    def follow(self, attempt: Transaction) -> None:
        """It is committed; the store is told what to expect, if all who were to send it did."""
        if not attempt.snapshot or not attempt.members.issuperset(attempt.snapshot):
            return
        lead_state, self._stored_at = self._lead_state, self._lead_state.progress.tick
        archive = self._order(RESUME, self._stored_at, attempt.snapshot, attempt.shadows)
        lead_state.send(STORE, replace(archive, epoch=attempt.ticket.epoch))
        self._versions[self._stored_at], self._travels = lead_state.progress.committed, True

    def _seats_of_snapshot(self) -> tuple[Address, ...]:
        """One of each stage, and whoever else holds something for others."""
        lead_state, alive = self._lead_state, self._lead_state.members.alive
        holding = {Address.parse(holder) for _, holder, *_ in lead_state.shadowing.entries()}
        if lead_state.strategy.activation_buffer.memory:
            holding = set(alive)
        return tuple(sorted({*first_seats(alive), *(holding & alive)}))

    def _archive(
        self, area: str, shelf: int, seats: tuple[Address, ...], *, doubted: bool = False
    ) -> bool:
        lead_state = self._lead_state
        archive = self._order(area, shelf, seats, lead_state.shadowing.entries())
        whole = not lead_state.terms.background
        return self._ordered(
            lead_state.keeping.archive(
                archive, lead_state.progress.committed, whole=whole, doubted=doubted
            )
        )

    def _order(
        self, area: str, shelf: int, seats: tuple[Address, ...], shadows: tuple[Entry, ...]
    ) -> Archive:
        members, progress = (
            self._lead_state.members,
            replace(self._lead_state.progress, shadows=shadows),
        )
        note: dict[str, Any] = {
            "progress": progress.to_json(),
            "lives": dict(members.names()),
            "absent": dict(members.absent()),
        }
        if self._lead_state.replays.stored:
            note["base"] = [self._lead_state.replays.stored, self._lead_state.replays.base]
        return Archive(progress.epoch, area, shelf, seats, progress.checkpoints, note)

    def _ordered(self, orders: list[Outgoing]) -> bool:
        self._lead_state.out += orders
        return bool(orders)

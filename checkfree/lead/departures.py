"""Who would like to leave, and their states, which they hand on first so that nothing is lost.

Whoever has a living replica may go as soon as nobody works. The last one of a stage first sends its
whole state, moments included, into good hands: those of its heir, who stands by for its seat, else
the store's. What is committed does not change before the next commit, so whoever is in a hurry
sends it at once::

    Leaving > Push(v) > KeepState > Archived, or HandedOn > it may go when nobody works, at v
                                    |                       at v + 1 by then: Push(v + 1)
                                    +> killed first: whoever comes there goes on from v, exactly

A state is named by seat, life and version. So it counts whatever becomes of others meanwhile, and
it counts for that version alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from checkfree.core.ops import STORE, Address, Recipe, Repair, Source, StateId, Transfer, Upload
from checkfree.lead.state import LeadState
from checkfree.messages.control import (
    HANDOVER,
    Archive,
    Archived,
    Dismissed,
    HandedOn,
    Leaving,
    Push,
    Withdraw,
)
from checkfree.recovery.rungs import BACK, is_exact

Place = Address | int
"""Where a state was handed on to: an heir, or a shelf of the store."""


class Handed(NamedTuple):
    """A state that is in good hands."""

    state: StateId
    place: Place


def note_of(states: Collection[StateId], epoch: int) -> dict[str, Any]:
    """What stands beside states of one version in the store; see ``states_of``."""
    names = [[str(state.seat), state.life] for state in states]
    return {"committed": min(state.version for state in states), "epoch": epoch, "states": names}


def states_of(note: Mapping[str, Any]) -> tuple[tuple[StateId, ...], int]:
    """States and epoch of such a note. Raises KeyError, TypeError or ValueError for others."""
    version, epoch = int(note["committed"]), int(note["epoch"])
    names = ((Address.parse(seat), int(life)) for seat, life in note["states"])
    return tuple(StateId(seat, life, version) for seat, life in names), epoch


class Departures:
    """``states``: of which stages the last one there has handed on its state."""

    def __init__(self, lead_state: LeadState):
        self._lead_state = lead_state
        self.states: dict[int, Handed] = {}
        self._leaving: dict[Address, Leaving] = {}
        self._sent: dict[StateId, Place] = {}
        """States on their way into good hands."""
        self._withdrawn: set[StateId] = set()
        self._shelf = 0

    def inherit(self, states: Mapping[int, Handed]) -> None:
        """What those who left an earlier lead had handed on, and nobody has used."""
        self.states = dict(states)
        self._shelf = max(
            (place for _, place in states.values() if isinstance(place, int)), default=0
        )

    def take_over(self, asked: Iterable[Leaving]) -> None:
        """Who asked while nobody led."""
        for message in asked:
            self.deliver(message)

    # --- what the lead is told -------------------------------------------------------------------

    def deliver(self, message: Leaving) -> None:
        """Somebody asks, or has another heir by now."""
        seat, life = message.worker, message.life
        if self._lead_state.members.lives.get(seat) != life:
            return
        known = self._leaving.get(seat)
        if known is not None and known.heir != message.heir:
            self._sent = {state: at for state, at in self._sent.items() if state.seat != seat}
        self._leaving[seat] = message

    def stays(self, seat: Address, life: int) -> None:
        """It was to leave, and does not."""
        if self.leaves(seat, life):
            del self._leaving[seat]
            self._sent = {state: at for state, at in self._sent.items() if state.seat != seat}

    def archived(self, message: Archived) -> None:
        """The store has what it was to be sent; or never will have it, if it was asked that."""
        for state, place in list(self._sent.items()):
            if place == message.shelf:
                self._withdrawn.discard(state)
                del self._sent[state]
                if message.shelf in message.offered:
                    self._is_safe(Handed(state, place))

    def handed_on(self, message: HandedOn) -> None:
        """An heir has it."""
        if self._sent.get(message.state) == message.heir:
            del self._sent[message.state]
            self._is_safe(Handed(message.state, message.heir))

    def _is_safe(self, handed: Handed) -> None:
        known = self.states.get(handed.state.seat.stage)
        if known is None or known.state.version <= handed.state.version:
            self.states[handed.state.seat.stage] = handed

    def gone(self, heir: Address) -> None:
        """What it had is lost with it."""
        self._sent = {state: at for state, at in self._sent.items() if at != heir}
        self.states = {n: handed for n, handed in self.states.items() if handed.place != heir}

    def heir_lost(self, brought: StateId | None) -> None:
        """Who had come with that state is lost before anything was made of it: if it was handed on
        to it, nobody else has it."""
        self.states = {
            stage: handed
            for stage, handed in self.states.items()
            if handed.state != brought or isinstance(handed.place, int)
        }

    def rebuilt(self, plan: Repair) -> None:
        """What was handed on by those that are something else now is history. A stage that is
        what it was may be lost once more, and the store still has it."""
        stages = {seat.stage for seat in plan.rebuild}
        self.states = {
            stage: handed
            for stage, handed in self.states.items()
            if stage not in stages or (is_exact(plan) and isinstance(handed.place, int))
        }

    # --- who may go ------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """A leaver's state is on its way, and nothing else may happen before it is there."""
        return any(self._committed(seat) in self._sent for seat in self._to_send())

    def leaves(self, seat: Address, life: int) -> bool:
        """This life has asked to."""
        return seat in self._leaving and self._leaving[seat].life == life

    def hurry(self) -> None:
        """While others work: have those sent who may be killed before they are done."""
        self._forget_gone()
        for seat in self._to_send():
            if self._leaving[seat].urgent:
                self._send(seat)

    def due(self) -> bool:
        """Nobody works. Let go whoever may; order the states of the others. True: those are on
        their way."""
        self._forget_gone()
        for seat in sorted(self._leaving):
            if self._may_go(seat):
                self._dismiss(seat)
        for seat in self._to_send():
            self._send(seat)
        return self.waiting

    def _to_send(self) -> list[Address]:
        alive = self._lead_state.members.alive
        return [s for s in sorted(self._leaving) if s in alive and not self._may_go(s)]

    def _committed(self, seat: Address) -> StateId:
        return StateId(seat, self._leaving[seat].life, self._lead_state.progress.committed)

    def _forget_gone(self) -> None:
        members = self._lead_state.members
        self._leaving = {
            seat: asked
            for seat, asked in self._leaving.items()
            if members.lives[seat] == asked.life and members.holds(seat)
        }

    def _may_go(self, seat: Address) -> bool:
        members, handed = self._lead_state.members, self.states.get(seat.stage)
        twin = any(other.stage == seat.stage and other != seat for other in members.alive)
        safe = handed is not None and handed.state == self._committed(seat)
        bare = seat in members.uninitialized and seat not in members.brings
        return bare or twin or safe

    def _dismiss(self, seat: Address) -> None:
        lead_state, life = self._lead_state, self._leaving.pop(seat).life
        lead_state.members.leave(seat)
        lead_state.keeping.lose(seat)
        lead_state.shadowing.lose(seat, lead_state.progress.committed)
        lead_state.replays.lose(seat, lead_state.progress.committed)
        lead_state.advance_epoch()
        lead_state.send(seat, Dismissed(seat, life))

    def _send(self, seat: Address) -> None:
        """Once: into its heir's hands, or the store's."""
        lead_state, p, state = self._lead_state, self._lead_state.progress, self._committed(seat)
        if state in self._sent:
            return
        self._sent = {old: at for old, at in self._sent.items() if old.version == p.committed}
        heir = self._leaving[seat].heir
        if heir is None:
            self._shelf += 1
            places = [*(at for _, at in self.states.values()), *self._sent.values()]
            known = tuple(sorted(at for at in places if isinstance(at, int)))
            note = note_of((state,), p.epoch)
            lead_state.send(STORE, Archive(p.epoch, HANDOVER, self._shelf, (seat,), known, note))
        self._sent[state] = self._shelf if heir is None else heir
        keep = Upload(seat) if heir is None else Transfer(seat, heir, "state")
        lead_state.send(seat, Push(p.epoch, keep, p.committed, HANDOVER, self._shelf))

    # --- what is made of it ----------------------------------------------------------------------

    def settled(self) -> bool:
        """Of all that was on its way when its owner was lost it is known whether it came through.
        The store is asked; an heir says what it has when it takes the seat."""
        lead_state = self._lead_state
        for state, place in list(self._sent.items()):
            if lead_state.members.lives[state.seat] == state.life:
                continue
            if state.version != lead_state.progress.committed or not isinstance(place, int):
                del self._sent[state]
            elif state not in self._withdrawn:
                self._withdrawn.add(state)
                lead_state.send(STORE, Withdraw(place))
        return not self._withdrawn & self._sent.keys()

    def awaits_heir(self) -> bool:
        """One that has the state of a stage is on its way there."""
        members, committed = self._lead_state.members, self._lead_state.progress.committed
        living = {seat.stage for seat in members.alive}
        return any(
            stage not in living
            and state.version == committed
            and isinstance(place, Address)
            and state not in members.brings.values()
            for stage, (state, place) in self.states.items()
        )

    def repair(self, lost: Collection[Address], refused: Collection[Source]) -> Repair | None:
        """How to rebuild those stages of which the exact state is in good hands, or was brought
        back by who had it; None: there are none."""
        committed = self._lead_state.progress.committed
        living = {seat.stage for seat in self._lead_state.members.alive}
        recipes = {}
        for seat in sorted(lost):
            recipe = None if seat.stage in living else self._exact(seat.stage, refused)
            if recipe is not None:
                recipes[seat] = recipe
        return Repair(recipes, committed) if recipes else None

    def _exact(self, stage: int, refused: Collection[Source]) -> Recipe | None:
        members, committed = self._lead_state.members, self._lead_state.progress.committed
        handed = self.states.get(stage)
        for seat, state in sorted(members.brings.items()):
            good = state.version == committed and members.ended.get(state.seat) == state.life
            source = Source(seat, stage, committed)
            if seat.stage == stage == state.seat.stage and good and source not in refused:
                own = handed is None or handed.state != state
                return Recipe(BACK if own else HANDOVER, (source,))
        source = Source(STORE, stage, committed)
        if handed is None or not isinstance(handed.place, int) or source in refused:
            return None
        return Recipe(HANDOVER, (source,)) if handed.state.version == committed else None

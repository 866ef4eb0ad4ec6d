"""Who sits where: a small state machine of lives, without messages.

A seat is *alive* (trains), *uninitialized* (joined, has no state worth training) or empty.
``lives`` counts who has sat there, so that news of an earlier life cannot touch a later one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

from checkfree.core.ops import Address, Location, StateId


def first_seats(seats: Collection[Address]) -> tuple[Address, ...]:
    """One seat of each stage: replicas are all the same."""
    firsts = {seat.stage: seat for seat in sorted(seats, reverse=True)}
    return tuple(firsts[stage] for stage in sorted(firsts))


class Membership:
    """The seats of a run; all alive at first."""

    def __init__(
        self,
        seats: Iterable[Address],
        lives: Mapping[Address, int] | None = None,
        locations: Mapping[Address, Location] = MappingProxyType({}),
    ):
        self.alive = set(seats)
        self.uninitialized: set[Address] = set()
        self.lives = dict.fromkeys(self.alive, 0) | dict(lives or {})
        self.num_stages = 1 + max(seat.stage for seat in self.lives)
        self.ended: dict[Address, int] = {}
        """Of stages that have not been filled since, the lives that ended with a state of use."""
        self.silent: dict[Address, int] = {}
        """Lives that ended in silence: they may come back."""
        self.brings: dict[Address, StateId] = {}
        """What whoever sits uninitialized there has brought along."""
        self.locations = {seat: at for seat, at in locations.items() if seat in self.alive}
        """Of seats that somebody has, as far as it is known."""
        self._losses: set[Address] = set()

    def holds(self, seat: Address) -> bool:
        """Somebody sits there."""
        return seat in self.alive or seat in self.uninitialized

    def has_state(self, seat: Address, life: int) -> bool:
        """That life sits there, and has a state of use."""
        return seat in self.alive and self.lives[seat] == life

    def whole(self) -> bool:
        """Every stage has somebody, if only an uninitialized one."""
        return len({seat.stage for seat in self.alive | self.uninitialized}) == self.num_stages

    def lose(self, seat: Address, life: int, *, silent: bool = False) -> bool:
        """This life is over. False if that is old news."""
        if life < self.lives.get(seat, 0):
            return False
        held, alive = self.holds(seat), seat in self.alive
        self._end(seat, life)
        if silent and alive:
            self.silent[seat] = life
        if held:
            self._losses.add(seat)
        return held

    def leave(self, seat: Address) -> None:
        """Somebody gets up, and nothing is lost by it."""
        self._end(seat, self.lives[seat])

    def _end(self, seat: Address, life: int) -> None:
        if seat in self.alive:
            self.ended[seat] = life
        self.alive.discard(seat)
        self.uninitialized.discard(seat)
        self.brings.pop(seat, None)
        self.locations.pop(seat, None)
        self.lives[seat] = life + 1

    def gone(self, seat: Address, life: int) -> None:
        """This one won't come back."""
        if self.silent.get(seat) == life:
            del self.silent[seat]

    def join(
        self,
        seat: Address,
        life: int,
        brings: StateId | None = None,
        at: Location | None = None,
    ) -> bool:
        """An uninitialized one sits down. False if that is old news."""
        if self.holds(seat) or life < self.lives.get(seat, 0):
            return False
        self.lives[seat] = life
        self.uninitialized.add(seat)
        if at is not None:
            self.locations[seat] = at
        if brings is not None:
            self.brings[seat] = brings
            self.gone(brings.seat, brings.life)
        return True

    def empty(self, seats: Iterable[Address]) -> None:
        """These are told to become something else: until then they have no state of use."""
        for seat in seats:
            self.alive.discard(seat)
            self.uninitialized.add(seat)

    def fill(self, seats: Iterable[Address]) -> None:
        """These have a state again, and what others once had of their stages is history."""
        stages = {seat.stage for seat in seats}
        for seat in seats:
            self.uninitialized.discard(seat)
            self.alive.add(seat)
            self.brings.pop(seat, None)
        self.ended, self.silent = (
            {seat: life for seat, life in lives.items() if seat.stage not in stages}
            for lives in (self.ended, self.silent)
        )

    def take_losses(self) -> set[Address]:
        """Who was lost since this was last asked."""
        lost, self._losses = self._losses, set()
        return lost

    def noted(self, seats: Iterable[Address]) -> None:
        """That these were lost is written down already."""
        self._losses -= set(seats)

    def absent(self) -> dict[str, int]:
        """Seats that nobody holds, and the life that whoever comes there will have."""
        return {str(s): life for s, life in sorted(self.lives.items()) if not self.holds(s)}

    def names(self) -> dict[str, int]:
        """Living seats and their lives, as records name them."""
        return {str(seat): self.lives[seat] for seat in sorted(self.alive)}

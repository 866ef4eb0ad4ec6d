"""Who would like a seat, and who gets one: the second way, beside the launcher, to have a seat
taken. Knows no stream; a candidate is told by what it came with.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from checkfree.ops import Address
from checkfree.runtime.swarm.joining.needs import most_needed

Tell = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Vacancy:
    """A seat that somebody is to take: in which life, and whether without a state of use."""

    life: int
    hollow: bool


@dataclass
class Candidates:
    """``taken`` says which seats have somebody; ``told`` is what a candidate is told beside its
    seat: who else is there."""

    taken: Callable[[], Collection[Address]]
    told: Callable[[], Mapping[str, Any]]
    vacant: dict[Address, Vacancy] = field(default_factory=dict)
    standing_by: dict[str, Tell] = field(default_factory=dict)
    """Those without a seat, by the id of their process, in the order in which they came."""
    on_the_way: dict[str, tuple[Address, int]] = field(default_factory=dict)
    """Those with a seat that they have not opened their streams from."""

    def order(self, seat: Address, life: int, hollow: bool) -> None:
        """Somebody is to sit there; whoever was on the way to it in an earlier life is too late."""
        self.vacant[seat] = Vacancy(life, hollow)
        self.on_the_way = {id: way for id, way in self.on_the_way.items() if way[0] != seat}
        self._match()

    def came(self, id: str, tell: Tell) -> None:
        """A candidate is ready to take any seat."""
        self.standing_by[id] = tell
        self._match()

    def left(self, id: str) -> tuple[Address, int] | None:
        """A candidate is gone. The seat and life that it was on the way to, if it was."""
        self.standing_by.pop(id, None)
        return self.on_the_way.pop(id, None)

    def arrived(self, id: str) -> None:
        """It sits."""
        self.on_the_way.pop(id, None)

    def _match(self) -> None:
        while self.standing_by:
            awaited = {seat for seat, _ in self.on_the_way.values()}
            seat = most_needed(self.vacant, {*self.taken(), *awaited})
            if seat is None:
                return
            id = next(iter(self.standing_by))
            tell, vacancy = self.standing_by.pop(id), self.vacant.pop(seat)
            self.on_the_way[id] = (seat, vacancy.life)
            birth = {"seat": str(seat), "life": vacancy.life, "hollow": vacancy.hollow}
            tell({"birth": {**birth, **self.told()}})

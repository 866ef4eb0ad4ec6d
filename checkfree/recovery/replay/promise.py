"""What copies promise where they stand: which losses come back exactly, said in a sentence.

Nothing here knows how a stage is replayed: blocks of stages, machines and zones are held, one after
the other, against ``survives``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

from checkfree.core.ops import Address, Protection, Source, View, locations_of
from checkfree.recovery.replay.plan import Locations, holders, lost_with, survives

Seats = frozenset[Address]

MOST_ASKED = 32
"""Stages of which blocks and pairs are asked for: of twice as many it would take seconds."""


@dataclass(frozen=True)
class Promise:
    """``block``: so many adjacent stages can be lost together, wherever they are; ``any_two``:
    whichever. ``machines`` and ``zones``: of each that is known, whether it can be lost.
    ``beside``: stages that one machine may take with all their copies."""

    stages: int
    block: int
    any_two: bool
    machines: Mapping[str, bool]
    zones: Mapping[str, bool]
    beside: tuple[int, ...]

    def __str__(self) -> str:
        """``any one stage, any 3 adjacent stages, any one machine; not zone west``"""
        can = ["any one stage"] if self.block else []
        can += [f"any {self.block} adjacent stages"] if self.block > 1 + self.any_two else []
        can += ["any two stages"] if self.any_two else []
        lost = []
        for what, found in (("machine", self.machines), ("zone", self.zones)):
            gone = [f"{what} {name}" for name, survived in sorted(found.items()) if not survived]
            can += [f"any one {what}"] if found and not gone else []
            lost += gone
        told = ", ".join(can) or "nothing"
        told += f"; not {', '.join(lost)}" if lost else ""
        if len(self.beside) == self.stages:
            return f"{told}; one machine may take all stages with their copies"
        if self.beside:
            which = f"stage{'s' * (len(self.beside) > 1)} {', '.join(map(str, self.beside))}"
            told += f"; one machine may take {which} with all copies"
        return told


def promise(view: View, locations: Locations) -> Promise:
    """The promise of what is kept where in ``view``; seats are in those ``locations``."""
    count = view.num_stages
    seats = [frozenset(s for s in view.alive if s.stage == stage) for stage in range(count)]
    most = count if count <= MOST_ASKED else 1
    sizes = range(1, most + 1)
    block = next((n - 1 for n in sizes if not _survive(_blocks(seats, n), view)), most)
    any_two = block > 1 and _survive((a | b for a, b in combinations(seats, 2)), view)
    copies = () if view.protection is None else view.protection.copies
    safe = {c.of for c in copies if not lost_with(c.holder, seats[c.of], locations)[0]}
    return Promise(
        count,
        block,
        any_two,
        whole(view, {seat: at.machine for seat, at in locations.items()}),
        whole(view, {seat: at.zone for seat, at in locations.items() if at.zone}),
        tuple(stage for stage in range(count) if stage not in safe),
    )


def promised(
    members: Iterable[str], hosts: Mapping[str, str], zones: Mapping[str, str], copies: int
) -> str:
    """In words, of seats and where they are as a plan record has them, with so many copies."""
    seats, locations = [Address.parse(seat) for seat in members], locations_of(hosts, zones)
    return str(promise(laid_out(seats, copies, locations), locations))


def whole(view: View, places: Mapping[Address, str]) -> dict[str, bool]:
    """Whether all who live there can be lost together, by place."""
    there = defaultdict[str, set[Address]](set)
    for seat in view.alive & places.keys():
        there[places[seat]].add(seat)
    return {place: survives(lost, view) for place, lost in sorted(there.items())}


def laid_out(seats: Collection[Address], copies: int, locations: Locations) -> View:
    """The view of a run in which all is as it is meant to be: a wave has just counted, and nobody
    was lost since."""
    alive, count = frozenset(seats), 1 + max(seat.stage for seat in seats)
    kept = frozenset(
        Source(holder, stage, 0)
        for stage in range(count)
        for holder in holders(stage, alive, copies, locations=locations)
    )
    have = Protection(0, kept, alive, logs=dict.fromkeys(alive, 0))
    return View(alive, count, 0, seats=alive, protection=have)


def _survive(cases: Iterator[Seats], view: View) -> bool:
    return all(survives(lost, view) for lost in cases)


def _blocks(seats: list[Seats], length: int) -> Iterator[Seats]:
    """All seats of so many stages side by side."""
    for first in range(len(seats) - length + 1):
        yield frozenset[Address]().union(*seats[first : first + length])

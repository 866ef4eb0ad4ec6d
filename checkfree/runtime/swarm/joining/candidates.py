"""Who would like a seat, and who gets one: the second way, beside the launcher, to have a seat
taken. Knows no stream; a candidate is told by what it came with.

A candidate is a process of a node. Nodes get seats as ``placement`` says; but whoever brings back
a state, or was sent one by a leaver, gets the seat that it is of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from checkfree.core.ops import Address, StateId
from checkfree.messages.control import Commit
from checkfree.runtime.swarm.placement.nodes import Node
from checkfree.runtime.swarm.placement.place import Move, Site, place
from checkfree.runtime.swarm.presence.speed import SeatTiming

Tell = Callable[[Mapping[str, Any]], None]

HEIR, MOST_HEIRS = 1 << 14, 1 << 16
"""Added to a replica's number, times the heir's: where an heir is called until it has the seat."""


def heir_of(seat: Address, number: int) -> Address:
    """The address of whoever stands by for a seat whose owner leaves. Another heir has another
    ``number``: what is meant for it never goes to one that died before."""
    return Address(seat.stage, seat.replica + HEIR * (1 + number % MOST_HEIRS))


def is_heir(at: Address, seat: Address | None = None) -> bool:
    """Whether an heir is called there; of that seat, if one is given."""
    whose = Address(at.stage, at.replica % HEIR)
    return at.replica >= HEIR and (seat is None or whose == seat)


@dataclass(frozen=True)
class Vacancy:
    """A seat that somebody is to take: in which life, and whether without a state of use."""

    life: int
    uninitialized: bool


@dataclass
class Candidate:
    """A process that wants a seat, or has one. ``brings``: an exact state that it has, and
    ``step``: the step that it has to take first for it to be that."""

    id: str
    node: Node
    tell: Tell
    brings: StateId | None = None
    step: Commit | None = None
    heir_to: Address | None = None
    seat: tuple[Address, int] | None = None
    """That it has, or is on its way to."""


@dataclass
class Candidates:
    """``taken`` says which seats have somebody; ``told`` is what a candidate is told beside its
    seat: who else is there. ``open``: seats are given away; until then all stand by."""

    taken: Callable[[], Collection[Address]]
    told: Callable[[], Mapping[str, Any]]
    open: bool = True
    vacant: dict[Address, Vacancy] = field(default_factory=dict)
    standing_by: dict[str, Candidate] = field(default_factory=dict)
    """Those without a seat, by the id of their process, in the order in which they came."""
    on_the_way: dict[str, Candidate] = field(default_factory=dict)
    """Those with a seat that they have not opened their streams from."""
    seated: dict[Address, Candidate] = field(default_factory=dict)
    speed: dict[str, float] = field(default_factory=dict)
    """Of nodes, as measured."""
    apart: set[frozenset[str]] = field(default_factory=set)
    """Nodes that can't reach each other."""
    drained: set[str] = field(default_factory=set)
    """Nodes that are to have no more seats."""
    copies: int = 0
    """Of each stage on others' seats, which placement keeps off its machine."""
    slow: frozenset[frozenset[str]] = frozenset()
    """Pairs of machines, as far as lines were measured before the run."""

    # --- who comes and goes ----------------------------------------------------------------------

    def order(self, seat: Address, life: int, uninitialized: bool) -> None:
        """Somebody is to sit there; whoever was on the way to it in an earlier life is too late."""
        self.vacant[seat] = Vacancy(life, uninitialized)
        self.seated.pop(seat, None)
        self.on_the_way = {
            id: who for id, who in self.on_the_way.items() if who.seat and who.seat[0] != seat
        }
        self.match()

    def came(self, candidate: Candidate) -> None:
        """One is ready to take any seat."""
        if candidate.id not in self.on_the_way:
            self.standing_by[candidate.id] = candidate
        self.match()

    def left(self, id: str) -> Candidate | None:
        """That one is gone; returned if it was on the way to a seat, or an heir."""
        standing, coming = self.standing_by.pop(id, None), self.on_the_way.pop(id, None)
        if standing is not None and standing.heir_to is not None:
            return standing
        return coming

    def arrived(self, id: str, seat: Address) -> Candidate | None:
        """It sits."""
        found = self.on_the_way.pop(id, None)
        if found is not None:
            self.seated[seat] = found
        return found

    def started(self) -> None:
        """The run has begun: nobody begins with the first weights any more."""
        self.open = True
        self.vacant = {seat: Vacancy(v.life, True) for seat, v in self.vacant.items()}
        self.match()

    # --- who gets what ---------------------------------------------------------------------------

    def node_of(self, seat: Address) -> Node | None:
        """Who has it, or is to have it soon."""
        coming = [who for who in self.on_the_way.values() if who.seat and who.seat[0] == seat]
        found = self.seated.get(seat) or next(iter(coming), None)
        return None if found is None else found.node

    def nodes(self) -> dict[str, Node]:
        """All that have, or may have, a seat."""
        every = (*self.seated.values(), *self.on_the_way.values(), *self.standing_by.values())
        known = {who.node.id: who.node for who in every}
        strange = {_stranger(seat): Node(_stranger(seat), _stranger(seat)) for seat in self.taken()}
        return {**strange, **known}

    def measured(self, found: Iterable[SeatTiming], by: Mapping[Address, str]) -> bool:
        """What seats take, and who has them: how fast a node is, once it was slow. Returns whether
        that is known of any."""
        load, speeds = Counter(by.values()), dict[str, float]()
        for measured in found:
            node = by.get(measured.seat)
            if node is not None and (measured.slow or node in self.speed) and measured.seconds > 0:
                speed = load[node] * measured.should / measured.seconds
                speeds[node] = min(speed, speeds.get(node, 1.0))
        self.speed |= speeds
        return bool(speeds)

    def placed(self) -> dict[Address, str | None]:
        """Of every seat its node."""
        seats = {*self.taken(), *self.vacant, *self.seated}
        seats |= {who.seat[0] for who in self.on_the_way.values() if who.seat}
        found: dict[Address, str | None] = {}
        for seat in seats:
            node = self.node_of(seat)
            if node is not None:
                found[seat] = node.id
            else:  # one that has not said yet who it is may have it
                strange = seat in self.taken() and seat not in self.vacant
                found[seat] = _stranger(seat) if strange else None
        return found

    def match(self) -> None:
        """Give away what is vacant."""
        for candidate in list(self.standing_by.values()):
            own = self._own(candidate)
            if own is not None:
                self.give(candidate, own)
        if not self.open or not self.vacant or not self.standing_by:
            return
        seats = {s: n for s, n in self.placed().items() if n is not None or s in self.vacant}
        for move in place(self.site(), seats, most=0):
            found = self.of(move.to)
            if found is not None and move.seat in self.vacant:
                self.give(found, move.seat)

    def _own(self, candidate: Candidate) -> Address | None:
        """The vacant seat that one has a state for."""
        if candidate.heir_to is not None:
            return candidate.heir_to if candidate.heir_to in self.vacant else None
        if candidate.brings is None:
            return None
        seat = candidate.brings.seat
        alike = [other for other in sorted(self.vacant) if other.stage == seat.stage]
        return seat if seat in self.vacant else next(iter(alike), None)

    def give(self, candidate: Candidate, seat: Address) -> None:
        """A vacant seat to one who stands by."""
        vacancy = self.vacant.pop(seat)
        del self.standing_by[candidate.id]
        candidate.seat, candidate.heir_to = (seat, vacancy.life), None
        self.on_the_way[candidate.id] = candidate
        assignment = {
            "seat": str(seat),
            "life": vacancy.life,
            "uninitialized": vacancy.uninitialized,
        }
        brings, step = candidate.brings, candidate.step
        if brings is not None and brings.seat.stage == seat.stage:
            assignment["brings"] = [str(brings.seat), brings.life, brings.version]
            assignment["step"] = None
            if step is not None:  # and what each stage multiplies its gradient by
                clip = {str(stage): factor for stage, factor in step.clip.items()}
                assignment["step"] = [list(step.ticket), clip]
        else:
            candidate.brings = None
        candidate.tell({"assignment": {**assignment, **self.told()}})

    def relieve(self, seat: Address, *, leaving: Collection[str] = ()) -> Candidate | None:
        """Who would take a seat that somebody leaves; ``leaving``: nodes that can't be asked."""
        seats = {**self.placed(), seat: None}
        site = self.site(leaving)
        moves = place(site, {s: n for s, n in seats.items() if n is not None or s == seat}, most=0)
        found = self.of(moves[0].to) if moves else None
        if found is not None:
            found.heir_to = seat
        return found

    def of_host(self, host: str, seat: Address) -> Candidate | None:
        """Who could take a seat on that machine."""
        load = Counter(self.placed().values())
        for who in self.standing_by.values():
            node = who.node
            fits = load[node.id] < node.room and (node.reads or seat.stage > 0)
            if node.host == host and who.heir_to is None and node.id not in self.drained and fits:
                return who
        return None

    def better(self) -> Move | None:
        """A seat that should change hands, if one should."""
        if not self.open or self.on_the_way:
            return None
        seats = {s: n for s, n in self.placed().items() if n is not None or s in self.vacant}
        moves = place(self.site(), seats) if seats else ()
        return next((move for move in moves if move.origin is not None), None)

    def site(self, leaving: Collection[str] = ()) -> Site:
        """As placement sees us."""
        nodes, no_more = self.nodes(), {*leaving, *self.drained}
        free = Counter(
            who.node.id
            for who in self.standing_by.values()
            if who.heir_to is None and who.node.id not in no_more
        )
        apart, pairs = frozenset(self.apart), combinations(nodes.values(), 2)
        slow = (
            frozenset((a.id, b.id)) for a, b in pairs if frozenset((a.host, b.host)) in self.slow
        )
        return Site(nodes, free, self.speed, apart, self.copies, frozenset(slow))

    def of(self, node: str) -> Candidate | None:
        """One of that node who stands by for no seat in particular."""
        standing = self.standing_by.values()
        return next((who for who in standing if who.node.id == node and who.heir_to is None), None)


def _stranger(seat: Address) -> str:
    return f"at {seat}"

"""Where seats should be: first every stage somewhere, then what protects a stage on another machine
than the stage, then as much on each node as it can carry, with few moves. Pure.

    nodes  a: 1.0 3.0   b: 2.0 0.0   c: –      4.0 vacant
    moves  4.0 to c                            it has nothing yet
           1.0 from a to c                     not now: c would have two, and a one

A placement is judged by a tuple of numbers, the first that differs decides (see ``judged``). Seats
that are vacant are given away one by one, then seats that somebody has are moved as long as that is
worth it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations

from checkfree.core.ops import Address
from checkfree.pipeline.routes import far_away, ring_successor
from checkfree.runtime.swarm.placement.nodes import Node

WORTH = 1.2
"""A seat is moved for load alone if the fullest node has so many times less to do after it: speeds
are measured, and no measurement is worth a move that the next one takes back."""

SLOW = 0.6
"""A node of less speed makes everybody wait, and a reserve is used rather: ``presence.speed`` names
it at half of what others have. A node that has two seats where others have one is not slow."""

LOADS = -3, -1
"""The places of what nodes have to do among what a placement is judged by."""

Seats = Mapping[Address, str | None]
"""Of every seat the node that has it; None: vacant."""
Cost = tuple[float, ...]


@dataclass(frozen=True)
class Move:
    """A seat is to be given to a node; ``origin`` has it until then, None: nobody."""

    seat: Address
    to: str
    origin: str | None = None


@dataclass(frozen=True)
class Site:
    """What is known of the nodes. ``speed``: work done in a second, of 1.0 for most. ``apart``:
    pairs that can't reach each other; ``slow``: pairs between which a microbatch takes long.
    ``standing``: how many more seats each can take now.
    ``copies``: of each stage on others' seats, to be replayed from; 0: none is."""

    nodes: Mapping[str, Node]
    standing: Mapping[str, int]
    speed: Mapping[str, float] = field(default_factory=dict)
    apart: frozenset[frozenset[str]] = frozenset()
    copies: int = 0
    slow: frozenset[frozenset[str]] = frozenset()

    def carries(self, node: str, count: int) -> float:
        """How long it takes for the work of so many seats."""
        return count / self.speed.get(node, 1.0)


def place(site: Site, seats: Seats, most: int = 1) -> tuple[Move, ...]:
    """Who gets the vacant seats, and at most so many of the others that change hands. A seat of a
    stage that somebody has waits for a node that has nothing yet."""
    moves, now = _fill(site, seats, site.standing)
    if moves:
        return moves  # the next time there is more to see
    made, left = list[Move](), Counter(site.standing)
    for _ in range(most):
        move = _moved(site, now, left)
        if move is None:
            break
        made.append(move)
        now[move.seat] = move.to
        left[move.to] -= 1
    return tuple(made)


def _fill(
    site: Site, seats: Seats, standing: Mapping[str, int]
) -> tuple[tuple[Move, ...], dict[Address, str | None]]:
    """Who takes which vacant seats, and who has which then."""
    moves, now, left = list[Move](), dict(seats), Counter(standing)
    waiting = {seat for seat, node in now.items() if node is None}
    while waiting:
        replicas = Counter(seat.stage for seat, node in now.items() if node is not None)
        seat = min(waiting, key=lambda seat: (replicas[seat.stage], seat))  # the neediest stage's
        waiting.remove(seat)
        move = _filled(site, now, left, seat)
        if move is not None:
            moves.append(move)
            now[seat] = move.to
            left[move.to] -= 1
    return tuple(moves), now


def judged(site: Site, seats: Seats) -> Cost:
    """What is wrong with a placement, the worst first; seats that are vacant count for nothing but
    their stage.

    Stages that nobody has; stage 0 without data; neighbours that can't reach each other; how much
    longer everybody waits for slow nodes than they would for others; seats on reserves; replicas on
    one machine; a stage on one machine with what it is restored from, and in one zone: its
    neighbours, or, where it is replayed, those half the pipeline away that hold its copies if they
    can; how much the fullest node has to do; neighbours with a slow line between them; how uneven
    the rest is.
    """
    has: defaultdict[int, list[str]] = defaultdict(list)
    for seat, node in seats.items():
        if node is not None:
            has[seat.stage].append(node)
    stages = 1 + max(seat.stage for seat in seats)
    beside = {frozenset((stage, ring_successor(stage, stages))) for stage in range(stages)}
    pairs = [(has[min(pair)], has[max(pair)]) for pair in beside if len(pair) == 2]
    kept = pairs
    if site.copies:
        far = ((s, holder) for s in range(stages) for holder in far_away(s, stages)[: site.copies])
        kept = [(has[stage], has[holder]) for stage, holder in far]
    host = {node.id: node.host for node in site.nodes.values()}
    zone = {node.id: node.zone or node.host for node in site.nodes.values()}
    load = Counter(node for nodes in has.values() for node in nodes)
    busy = sorted((site.carries(node, count) for node, count in load.items()), reverse=True)
    return (
        sum(not has[stage] for stage in range(stages)),
        sum(not site.nodes[node].reads for node in has[0]),
        sum(frozenset((a, b)) in site.apart for one, other in pairs for a in one for b in other),
        _waited(site, load),
        sum(site.nodes[node].reserve for nodes in has.values() for node in nodes),
        sum(host[a] == host[b] for nodes in has.values() for a, b in combinations(nodes, 2)),
        sum(_all_on_one(one, other, host) for one, other in kept),
        sum(_all_on_one(one, other, zone) for one, other in kept),
        busy[0] if busy else 0.0,
        sum(frozenset((a, b)) in site.slow for one, other in pairs for a in one for b in other),
        sum(seconds**2 for seconds in busy),
    )


def _waited(site: Site, load: Mapping[str, int]) -> float:
    """For each slow node that has a seat: what it takes longer than another would with that seat
    more, by so much that it is worth a move. Whoever has room counts, also who has no process that
    stands by just now: otherwise what was moved to it would be moved back."""
    room = [(name, load[name]) for name, node in site.nodes.items() if load[name] < node.room]
    waited = 0.0
    for node, count in load.items():
        if site.speed.get(node, 1.0) < SLOW:
            takes = site.carries(node, count)
            other = min((site.carries(n, has + 1) for n, has in room if n != node), default=takes)
            waited += takes - other if takes >= other * WORTH else 0.0
    return waited


def _all_on_one(one: list[str], other: list[str], place: Mapping[str, str]) -> int:
    """Both stages are lost with one place."""
    return len({place[node] for node in (*one, *other)}) == 1 if one and other else 0


def _filled(site: Site, seats: Seats, left: Mapping[str, int], seat: Address) -> Move | None:
    """Who takes a vacant seat; None: nobody can, or should."""
    load = Counter(seats.values())
    covered = any(s.stage == seat.stage and node is not None for s, node in seats.items())
    able = [
        name
        for name, node in site.nodes.items()
        if left.get(name, 0) > 0
        and load[name] < node.room
        and (node.reads or seat.stage > 0)
        and not (covered and (load[name] or node.reserve))
    ]
    options = [(judged(site, {**seats, seat: name}), load[name], name) for name in able]
    return Move(seat, min(options)[2]) if options else None


def _moved(site: Site, seats: Seats, left: Mapping[str, int]) -> Move | None:
    """The one move that makes the placement better by the most, once whoever is relieved has taken
    what is still vacant; None: none is worth it."""
    load, before = Counter(seats.values()), judged(site, seats)
    best: tuple[Cost, Address, str] | None = None
    for seat, origin in sorted(seats.items()):
        for name, node in sorted(site.nodes.items()):
            full = left.get(name, 0) <= 0 or load[name] >= node.room
            if origin is None or name == origin or full or not (node.reads or seat.stage):
                continue
            after = {**left, name: left.get(name, 0) - 1, origin: left.get(origin, 0) + 1}
            option = judged(site, _fill(site, {**seats, seat: name}, after)[1]), seat, name
            if worth(before, option[0]) and (best is None or option < best):
                best = option
    return None if best is None else Move(best[1], best[2], seats[best[1]])


def worth(before: Cost, after: Cost) -> bool:
    """Whether a move is: anything but load must get better, or the load by much, and nothing of
    more weight worse."""
    for place, (was, now) in enumerate(zip(before, after, strict=True), -len(before)):
        if now != was:
            return now < was if place not in LOADS else now * WORTH <= was
    return False

"""What a seat moves out of its memory between forward and backward, and how much stays.

A seat's memory fills with microbatches that wait for their backwards. Those that wait long can lie
elsewhere meanwhile, if they are there again in time ("PipeOffload", Wan et al., arXiv 2503.01328):
what is held long for its bytes goes first.

What moves queues for one line, in the order in which it sets out. A microbatch leaves when its
forward is over, and the next one that leaves waits until it is gone. It comes back beside the last
``ahead`` ops before its backward: one, if the line is fast. So of what is moved there are few in
memory at once, however many are held: with ``ahead = 1``, that of the op that computes, and one on
its way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from checkfree.core.ops import Kind, Op

Key = tuple[int, int]
"""(microbatch, hop): of what is held from its forward to its backward."""

SLACK = 0.05
"""Share of its seconds that a seat may wait for what it moves, and that counts as hidden: where it
turns from forwards to backwards it waits once, however few it moves. To compute all again takes a
third more."""

AHEAD = (1, 2, 3, 4, 6, 8)
"""Ops before a backward in which what it needs may come back. The more, the slower the line may be,
and the more has come back too early."""

Seconds = Callable[[Op], float]
"""Of an op at its seat."""

Bytes = Callable[[int], int]
"""By hop, of what is held of a microbatch."""


@dataclass(frozen=True)
class Moves:
    """What a seat moves out of its memory, and how many ops before its backward it sets out for
    there."""

    keys: frozenset[Key] = frozenset()
    ahead: int = 1

    def back(self, op: Op | None) -> Key | None:
        """What comes back while the seat runs the op which is so many before ``op``."""
        if op is None or op.kind is not Kind.BACKWARD or op[1:] not in self.keys:
            return None
        return op[1:]


NOTHING = Moves()


def worth_moving(ops: Sequence[Op], ahead: int = 1) -> dict[Key, tuple[int, int]]:
    """What waits long enough, with the places of its forward and backward among the seat's ops: an
    op or more beside that which sees it leave and those that see it come back, for else it would be
    in memory all the time."""
    begun: dict[Key, int] = {}
    found = {}
    for at, (kind, microbatch, hop) in enumerate(ops):
        if kind is Kind.FORWARD:
            begun[microbatch, hop] = at
        elif kind is Kind.BACKWARD and at - begun[microbatch, hop] > ahead + 2:
            found[microbatch, hop] = begun[microbatch, hop], at
    return found


@dataclass
class Carrier:
    """When what a seat moves is out of its memory, and there again; ``seconds`` on its way, by hop.
    Asked about one op after the other by whoever knows when each could begin otherwise."""

    ops: Sequence[Op]
    moves: Moves
    seconds: Callable[[int], float]
    _at: int = 0
    _free: float = 0.0
    _left: float = 0.0
    _back: dict[Key, float] = field(default_factory=dict)

    def begin(self, now: float) -> float:
        """When the next op begins that could ``now``: not before what it needs is back."""
        op, later = self.ops[self._at], self._at + self.moves.ahead
        if op.kind is Kind.BACKWARD:
            now = max(now, self._back.pop(op[1:], now))
        key = self.moves.back(self.ops[later] if later < len(self.ops) else None)
        if key is not None:
            self._free = self._back[key] = max(self._free, now) + self.seconds(key[1])
        return now

    def end(self, now: float) -> float:
        """When the seat is free that has computed this op ``now``: not before what left last is
        gone, if another leaves."""
        op = self.ops[self._at]
        self._at += 1
        if op.kind is not Kind.FORWARD or op[1:] not in self.moves.keys:
            return now
        now = max(now, self._left)
        self._free = self._left = max(self._free, now) + self.seconds(op.hop)
        return now


def waits(
    ops: Sequence[Op], moves: Moves, seconds: Seconds, carried: Callable[[int], float]
) -> float:
    """Seconds that a seat, which waits for nothing else, waits for what it moves. ``carried``: by
    hop, seconds that a microbatch is on its way."""
    carrier, now = Carrier(ops, moves, carried), 0.0
    for op in ops:
        now = carrier.end(carrier.begin(now) + seconds(op))
    return now - sum(map(seconds, ops))


def in_memory(ops: Sequence[Op], moves: Moves, count: Bytes) -> Iterator[int]:
    """What a seat holds in memory at most while each of its ops runs, what is on its way included:
    bytes of ``count``, or microbatches if that is 1. What is split is held until its weights' half
    has run, and is not moved between the halves."""
    apart = {op[1:] for op in ops if op.kind is Kind.WEIGHTS}
    there: dict[Key, int] = {}
    leaving: dict[Key, int] = {}
    # On its way back: what set out before that which leaves may be there while that is, too; what
    # set out after it comes once it is gone.
    before: dict[Key, int] = {}
    after: dict[Key, int] = {}
    for at, (kind, microbatch, hop) in enumerate(ops):
        key, later = (microbatch, hop), at + moves.ahead
        back = moves.back(ops[later] if later < len(ops) else None)
        if back is not None:
            after[back] = count(back[1])
            leaving.pop(back, None)
        if kind in (Kind.FORWARD, Kind.BACKWARD):
            there[key] = count(hop)
            for way in (before, after, leaving):
                way.pop(key, None)
        transit = max(sum(leaving.values()), sum(after.values()))
        yield sum(there.values()) + sum(before.values()) + transit
        if kind is Kind.FORWARD and key in moves.keys:
            leaving = {key: there.pop(key)}
            before, after = {**before, **after}, {}
        elif kind is Kind.WEIGHTS or (kind is Kind.BACKWARD and key not in apart):
            there.pop(key, None)


def peak_in_memory(ops: Sequence[Op], moves: Moves, count: Bytes) -> int:
    """The most of :func:`in_memory`."""
    return max(in_memory(ops, moves, count), default=0)


def choose_moves(
    ops: Sequence[Op],
    seconds: Seconds,
    count: Bytes,
    bandwidth: float,
    room: int | None = None,
) -> Moves:
    """What a seat moves out of its memory. ``count``: bytes that it holds of a microbatch, by hop;
    ``bandwidth``: bytes per second each way.

    What is held longest for its bytes goes first; of what is held about as long, some are taken,
    evenly spread. Without ``room``: as many as can be moved while the seat computes. With it: as
    few as keep ``peak_in_memory`` within so many bytes, if it has to wait for them or not, and the
    way that waits the least; that which holds the least, where none keeps it.
    """

    def carried(hop: int) -> float:
        return count(hop) / bandwidth

    def cost(moves: Moves) -> tuple[float, ...]:
        peak = peak_in_memory(ops, moves, count)
        if room is None:
            return peak, moves.ahead
        waited = waits(ops, moves, seconds, carried)
        return max(peak - room, 0), waited, len(moves.keys), moves.ahead

    hidden = SLACK * sum(map(seconds, ops))

    def holds(order: Sequence[Sequence[Key]], ahead: int, n: int) -> bool:
        moves = Moves(_first(order, n), ahead)
        if room is None:
            return waits(ops, moves, seconds, carried) <= hidden
        return peak_in_memory(ops, moves, count) > room

    found = [NOTHING]
    for ahead in AHEAD:
        order = _in_turn(worth_moving(ops, ahead), ops, seconds, count)
        most = sum(map(len, order))
        last = _last(most, partial(holds, order, ahead))
        n = last if room is None else last + 1
        found.append(Moves(_first(order, min(most, n)), ahead))
    return min(found, key=cost)


def _in_turn(
    worth: Mapping[Key, tuple[int, int]], ops: Sequence[Op], seconds: Seconds, count: Bytes
) -> list[list[Key]]:
    """Classes of what is held about equally long for its bytes, the longest first, each in the
    order of its ops: within half of the longest, a quarter, and so on. In finer ones those would
    come together that leave one after the other, and wait for each other."""
    clock = [0.0]
    for op in ops:
        clock.append(clock[-1] + seconds(op))
    held = {
        key: (clock[backward] - clock[forward + 1]) / count(key[1])
        for key, (forward, backward) in sorted(worth.items(), key=lambda one: one[1])
        if count(key[1]) > 0
    }
    longest = max(held.values(), default=0.0)
    classes: dict[int, list[Key]] = {}
    for key, score in held.items():
        if score > 0:
            classes.setdefault(int(math.log2(longest / score)), []).append(key)
    return [classes[far] for far in sorted(classes)]


def _first(order: Sequence[Sequence[Key]], n: int) -> frozenset[Key]:
    """The first ``n``; of the class that is taken in part, evenly spread, as microbatches are that
    are swapped (semantics 1)."""
    found: list[Key] = []
    for alike in order:
        part, whole = min(len(alike), n - len(found)), len(alike)
        found += (key for i, key in enumerate(alike) if (i + 1) * part // whole > i * part // whole)
    return frozenset(found)


def _last(most: int, holds: Callable[[int], bool]) -> int:
    """The last of 0 … ``most`` for which it holds, if it holds up to some number; -1: none."""
    if not holds(0):
        return -1
    below, above = 0, most + 1
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if holds(middle) else (below, middle)
    return below

"""Workers and a store without tensors: they answer as the real ones do, with bytes instead.

They keep what decides what is sent: which version each state is of, whether an optimizer has
stepped yet, who holds a copy of whom, and which checkpoints are offered.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from checkfree.core.formats import SIGNS
from checkfree.core.ops import (
    STORE,
    Address,
    Kind,
    Mirror,
    Recipe,
    Schedule,
    Shadow,
    Source,
    Transfer,
)
from checkfree.messages.control import AVERAGE, CHECKPOINT, Archive, Begin, Push, Rebuild
from checkfree.recovery.fit.activations import BufferLimits, Crossing, Ring, matches
from checkfree.recovery.shadow.references import HELD, WHOLE, References, held_as
from checkfree.simulator.sizes import Sizes

NEWEST = 3
"""Checkpoints that a store keeps, as ``checkfree.runtime.store`` does."""


@dataclass(frozen=True)
class Held:
    """A state of a stage: all that decides how many bytes it has."""

    stage: int
    moments: bool = False
    packed: str = ""
    changed: bool = False
    """It has the last change beside it."""

    def bytes(self, sizes: Sizes, *, moments: bool = True) -> int:
        if self.packed:
            change = sizes.packed[SIGNS][self.stage] if self.changed else 0
            return sizes.packed[self.packed][self.stage] + change
        return sizes.state(self.stage, moments=self.moments and moments)


@dataclass
class SimulatedWorkers:
    """All seats of a run, their copies of each other, and the store."""

    sizes: Sizes
    averages_moments: bool
    own: dict[Address, Held] = field(default_factory=dict)
    copies: dict[tuple[Address, int], Held] = field(default_factory=dict)
    shadows: dict[Shadow, Held] = field(default_factory=dict)
    waves: dict[Source, Held] = field(default_factory=dict)
    """Exact copies for replays."""
    references: dict[Address, References[None]] = field(default_factory=dict)
    """What each owner has left at the holders of its shadows."""
    rings: dict[Address, Ring[int]] = field(default_factory=dict)
    limits: BufferLimits = BufferLimits()  # noqa: RUF009 (frozen)
    """Of each ring."""
    shelves: dict[int, dict[int, Held]] = field(default_factory=dict)
    averaged: dict[int, int] = field(default_factory=dict)
    """Bytes of each state that is kept to average, the newest ``average_last`` of them."""
    average_last: int = 0
    logs: dict[int, Mapping[Address, int]] = field(default_factory=dict)
    """Bytes that each seat sent, by iteration; of those that are kept for replays."""
    clones: dict[tuple[Address, int], Held] = field(default_factory=dict)
    """States that seats have put aside of themselves, by version."""
    peak_peers: int = 0
    peak_store: int = 0
    peak_own: int = 0
    """Most bytes held at once: for others, in checkpoints, and by seats beside their state for
    their own sake: logs, what they have put aside, and what their next shadows are changes of."""

    @classmethod
    def new(
        cls, sizes: Sizes, seats: Collection[Address], averages_moments: bool, limits: BufferLimits
    ) -> SimulatedWorkers:
        """All seats with their first weights."""
        own = {seat: Held(seat.stage) for seat in seats}
        rings = {seat: Ring[int](limits) for seat in seats}
        references = {seat: References[None](seat) for seat in seats}
        return cls(sizes, averages_moments, own, references=references, rings=rings, limits=limits)

    def lose(self, seat: Address) -> None:
        """With all that it holds."""
        self.own.pop(seat, None)
        self.rings[seat] = Ring(self.limits)
        self.references[seat].clear()
        self.shadows = {s: held for s, held in self.shadows.items() if s.holder != seat}
        self.waves = {copy: held for copy, held in self.waves.items() if copy.holder != seat}
        self.copies = {key: held for key, held in self.copies.items() if key[0] != seat}
        self.clones = {key: held for key, held in self.clones.items() if key[0] != seat}
        self.logs = {
            iteration: {other: n for other, n in sent.items() if other != seat}
            for iteration, sent in self.logs.items()
        }

    def step(self, seats: Collection[Address], mirrors: Collection[Mirror]) -> None:
        """Every optimizer has moments now."""
        for seat in seats:
            if not self.own[seat].moments:
                self.own[seat] = Held(seat.stage, True)
        for keep in mirrors:
            if not self.copies[keep.holder, keep.owner.stage].moments:
                self.copies[keep.holder, keep.owner.stage] = Held(keep.owner.stage, True)

    def cross(self, begin: Begin) -> None:
        """What crossed the boundaries of all seats in an iteration that is committed."""
        if not self.limits.memory:
            return
        iteration, most = begin.ticket.iteration, self.sizes.told
        for microbatch, route in enumerate(begin.routes):
            for hop in range(1, len(route)):
                crossing, one, other = (iteration, microbatch, hop), route[hop - 1], route[hop]
                if one == other:
                    continue
                count = self.sizes.activation_on(one, other)
                told = count if most is None else min(count, most)
                self.rings[one].sent.add(crossing, other.stage, told, count)
                self.rings[other].got.add(crossing, one.stage, told, count)

    def put_aside(self, begin: Begin, sent: Mapping[Address, int]) -> None:
        """What all have sent in an iteration that is committed goes to their logs, and the states
        of a wave beside them."""
        if begin.logs is None and not begin.wave:
            return
        iteration = begin.ticket.iteration
        if begin.logs is not None:
            self.logs[iteration] = sent
        for seat in begin.wave:
            self.clones[seat, iteration + 1] = self.own[seat]
        self.note_peak()

    def sent(self, begin: Begin) -> tuple[Transfer, ...]:
        """The transfers of an iteration, written as they will be: those of signs may be whole."""
        return tuple(
            keep._replace(what=cast(Any, WHOLE))
            if keep.what == SIGNS and self.references[keep.owner].base(keep, begin) is None
            else keep
            for keep in begin.transfers
        )

    def shadow(self, keep: Transfer, begin: Begin) -> None:
        """Pushed after that plan, and there."""
        stage, version = keep.owner.stage, begin.ticket.iteration + 1
        references, changed = self.references[keep.owner], False
        if keep.what == SIGNS:
            changed = references.base(keep, begin) is not None
            references.leave(keep.holder, version, None)
        held = Held(stage, packed=held_as(keep.what), changed=changed)
        self.shadows[Shadow(stage, keep.holder, version)] = held
        self.note_peak()

    def tidy(self, begin: Begin) -> None:
        """As ``checkfree.recovery.shadow.holder`` does, and their owners."""
        for references in self.references.values():
            references.tidy(begin)
        since = begin.ticket.iteration if begin.logs is None else begin.logs
        self.waves = {copy: held for copy, held in self.waves.items() if copy.version >= since}
        self.clones = {key: held for key, held in self.clones.items() if key[1] >= since}
        self.logs = {i: sent for i, sent in self.logs.items() if i >= since}
        late, counted = begin.ticket.iteration - 1, set(begin.shadows)
        self.shadows = {
            s: held for s, held in self.shadows.items() if s in counted or s.version >= late
        }

    def crossed(self, stage: int, recipe: Recipe) -> tuple[dict[Address, int], int]:
        """Bytes that each seat sends of what it holds of a lost stage, and pairs among them."""
        replies: dict[Address, int] = {}
        inputs: dict[Crossing, int] = {}
        outputs: dict[Crossing, int] = {}
        for seat in recipe.boundary:
            sent, got = (
                dict(side.newest(stage, recipe.pairs))
                for side in (self.rings[seat].sent, self.rings[seat].got)
            )
            replies[seat] = sum(sent.values()) + sum(got.values())
            inputs |= sent
            outputs |= got
        return replies, len(list(matches(inputs, outputs)))

    def push(self, order: Push) -> Held:
        """What the owner sends; a peer holds it from now on."""
        held = self.own[order.keep.owner]
        if order.keep.holder != STORE:
            self.copies[order.keep.holder, held.stage] = held
        return held

    def push_copy(self, order: Push) -> Held:
        """An exact copy for replays, as it was when its iteration was committed."""
        stage, held = order.keep.owner.stage, Held(order.keep.owner.stage, order.version > 0)
        self.waves[Source(order.keep.holder, stage, order.version)] = held
        return held

    def archive(self, order: Archive) -> tuple[int, ...]:
        """File the owners' states; returns what the store offers then."""
        if order.area == AVERAGE:
            held = (self.own[seat].bytes(self.sizes, moments=False) for seat in order.seats)
            older = {shelf: size for shelf, size in self.averaged.items() if shelf < order.shelf}
            there = [*sorted(older.items()), (order.shelf, sum(held))]
            self.averaged = dict(there[-self.average_last :])
            return tuple(self.averaged)
        if order.area != CHECKPOINT:
            return ()
        known = {version: self.shelves[version] for version in order.known}
        known[order.shelf] = {seat.stage: self.own[seat] for seat in order.seats}
        self.shelves = {version: known[version] for version in sorted(known)[-NEWEST:]}
        return tuple(self.shelves)

    def source(self, source: Source) -> Held:
        """What a rebuild reads."""
        if source.holder == STORE:
            return self.shelves[source.version][source.of]
        if source in self.waves:
            return self.waves[source]
        if source.holder.stage == source.of:
            return self.own[source.holder]
        shadow = Shadow(source.of, source.holder, source.version)
        if shadow in self.shadows:
            return self.shadows[shadow]
        return self.copies[source.holder, source.of]

    def rebuilt(self, seat: Address, order: Rebuild) -> Held:
        """What the seat becomes: exact if all it is made of is of its own stage."""
        sources = order.recipe.sources
        if order.again is not None:
            if order.again.aside:
                return self.own[seat]
            return Held(seat.stage, order.again.start + len(order.again.steps) > 0)
        found = [self.source(source) for source in sources]
        self.rings[seat] = Ring(self.limits)
        self.references[seat].clear()
        newer = [shadow for shadow in self.shadows if shadow.version > order.resume_at]
        for shadow in newer:
            if shadow.holder == seat:
                del self.shadows[shadow]
        if sources and all(source.of == seat.stage for source in sources):
            if found[0].packed == HELD:  # as checkfree.recovery.shadow.owner does
                self.references[seat].leave(sources[0].holder, sources[0].version, None)
            return Held(seat.stage) if found[0].packed else found[0]
        mixed = self.averages_moments and bool(found) and all(held.moments for held in found)
        return Held(seat.stage, mixed)

    def reply(self, source: Source, *, moments: bool) -> int:
        """Bytes of the answer to a StateRequest; the store sends what it has."""
        return self.source(source).bytes(self.sizes, moments=moments or source.holder == STORE)

    def note_peak(self) -> None:
        """How much is held now, if it is more than ever."""
        for_peers = (*self.copies.values(), *self.shadows.values(), *self.waves.values())
        peers = sum(held.bytes(self.sizes) for held in for_peers)
        shelved = (held for shelf in self.shelves.values() for held in shelf.values())
        self.peak_peers = max(self.peak_peers, peers)
        stored = sum(held.bytes(self.sizes) for held in shelved) + sum(self.averaged.values())
        self.peak_store = max(self.peak_store, stored)
        logs = sum(sum(sent.values()) for sent in self.logs.values())
        clones = sum(held.bytes(self.sizes) for held in self.clones.values())
        left = sum(
            self.sizes.packed[HELD][seat.stage]
            for seat, references in self.references.items()
            for _ in references.items()
        )
        self.peak_own = max(self.peak_own, logs + clones + left)


def counts(schedule: Schedule) -> Mapping[Address, tuple[int, int]]:
    """Forwards and redundant forwards of each worker."""
    return {
        worker: (
            sum(op.kind is Kind.FORWARD for op in ops),
            sum(op.kind is Kind.REDUNDANT for op in ops),
        )
        for worker, ops in schedule.items()
    }


def losses(begin: Begin, worker: Address) -> tuple[tuple[int, float], ...]:
    """Zeros, for the microbatches whose loss the worker takes."""
    return tuple((m, 0.0) for m, route in enumerate(begin.routes) if route[-1] == worker)

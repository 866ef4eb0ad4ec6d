"""The words of a pipeline: addresses, routes, ops, and what a recovery may name.

Rule 1: nothing here imports torch, and nothing here holds a tensor.
Rule 2: everything here is immutable, hashable where it can be, and prints as you would write it.

An op names a microbatch and a *hop*; the microbatch's route says which worker that hop is. Peers
are read off the route too, so no code anywhere computes ``stage + 1``::

    route 3 = 0.0 > 2.0 > 1.0 > 3.0 > 4.0 > 0.0   (stages 1 and 2 swapped)
    F3@1    = forward of microbatch 3 at hop 1    (runs on worker 2.0)
    B3@1    = its backward: the gradient by its input, and that by the worker's weights
    W3@1    = the latter alone: where it follows, B3@1 leaves it out (split backward)
    R3@2    = the same worker computing hop 2 as well, on its copy of stage 1 (redundant)
    R       = the worker's last: gradients are summed over the replicas of its stage
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, NamedTuple

from checkfree.models.chunks import Chunks


class Address(NamedTuple):
    """Where a message can be sent: a stage's replica ("2.0"), or one of the singletons."""

    stage: int
    replica: int = 0

    def __str__(self) -> str:
        return _SINGLETONS.get(self.stage) or f"{self.stage}.{self.replica}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Inverse of ``str``. Raises ValueError for anything but "2.0" or a singleton's name."""
        for stage, name in _SINGLETONS.items():
            if text == name:
                return cls(stage)
        match = re.fullmatch(r"(\d+)\.(\d+)", text)
        if match is None:
            raise ValueError(f"not an address: {text!r} (expected '2.0', 'lead' or 'store')")
        return cls(int(match[1]), int(match[2]))


_SINGLETONS = {-1: "lead", -2: "store", -3: "faults", -4: "log"}
LEAD, STORE, FAULTS, LOG = (Address(stage) for stage in _SINGLETONS)

Route = tuple[Address, ...]
"""The workers one microbatch visits, in order. Stage 0 is first (embed) and last (loss)."""


def render_route(route: Route) -> str:
    """``0.0 > 2.0 > 1.0 > 3.0 > 0.0``"""
    return " > ".join(map(str, route))


def parse_route(text: str) -> Route:
    """Inverse of :func:`render_route`."""
    return tuple(Address.parse(part.strip()) for part in text.split(">"))


class Kind(Enum):
    """What an op does."""

    FORWARD = "F"
    BACKWARD = "B"  # by input and weights; by the input alone where WEIGHTS follows
    WEIGHTS = "W"  # by the weights, of a backward that left them out: no other worker waits for it
    REDUCE = "R"  # sum gradients over the living replicas of a stage
    REDUNDANT = "R@"  # forward of the next hop on the copy this worker holds, for nothing else

    def __repr__(self) -> str:
        return self.value


class Op(NamedTuple):
    """One unit of a worker's work. ``REDUCE`` has neither microbatch nor hop."""

    kind: Kind
    microbatch: int = -1
    hop: int = -1

    def __str__(self) -> str:
        if self.kind is Kind.REDUCE:
            return "R"
        return f"{self.kind.value[0]}{self.microbatch}@{self.hop}"

    @classmethod
    def parse(cls, text: str) -> Op:
        """Inverse of ``str``: ``Op.parse("F3@1") == Op(Kind.FORWARD, 3, 1)``. Reads "S3@1" too, as
        a redundant forward was written before."""
        if text == "R":
            return cls(Kind.REDUCE)
        match = re.fullmatch(r"([FBWRS])(\d+)@(\d+)", text)
        if match is None:
            expected = "'F3@1', 'B3@1', 'W3@1', 'R3@1' or 'R'"
            raise ValueError(f"not an op: {text!r} (expected {expected})")
        kind = Kind.REDUNDANT if match[1] in "RS" else Kind(match[1])
        return cls(kind, int(match[2]), int(match[3]))


Schedule = Mapping[Address, tuple[Op, ...]]
"""What each worker runs, in order. The order is the contract; timing is not part of it."""


@dataclass(frozen=True)
class Course:
    """How an iteration ran: the route of each microbatch, and what seats ran of them."""

    routes: tuple[Route, ...]
    schedule: Schedule


class Mirror(NamedTuple):
    """An exact copy of ``owner``'s stage at ``holder``, part of the transaction: it is stepped with
    the owner's gradient, so both have iteration i or neither does (semantics 13)."""

    owner: Address
    holder: Address


class Transfer(NamedTuple):
    """What ``holder`` is sent of ``owner`` after a step; it carries the iteration that it is of.

    ``what``: "state", all of it and exact; else a *shadow*: weights alone, written as it says (see
    ``checkfree.core.formats``); ``signs`` may be a whole copy, see
    ``checkfree.recovery.shadow.references``.
    """

    owner: Address
    holder: Address
    what: Literal["state", "int8_rows", "int4_rows", "signs", "bf16", "fp32"]


class Upload(NamedTuple):
    """``owner``'s state, exact, into an archive of the store."""

    owner: Address

    @property
    def holder(self) -> Address:
        return STORE


Keep = Mirror | Transfer | Upload
"""Something of ``owner`` that ``holder`` puts aside."""


class Shadow(NamedTuple):
    """A packed copy of a stage's weights after ``version`` iterations, on another stage's seat."""

    stage: int
    holder: Address
    version: int


class Location(NamedTuple):
    """Where a seat is. A ``machine`` is lost as a whole, a ``zone`` ("": none was told) as well,
    now and then."""

    machine: str
    zone: str = ""

    @property
    def area(self) -> str:
        """What is lost together beyond the machine; one without a zone is one by itself."""
        return self.zone or self.machine


def locations_of(hosts: Mapping[str, str], zones: Mapping[str, str]) -> dict[Address, Location]:
    """By seat, as records have the machines and zones of seats."""
    return {Address.parse(s): Location(host, zones.get(s, "")) for s, host in hosts.items()}


class Rung(NamedTuple):
    """A rule for one stage: a step of a ladder."""

    stage: int
    rule: str


class Source(NamedTuple):
    """Where a state is read: ``holder``'s state of stage ``of``, after ``version`` iterations."""

    holder: Address
    of: int
    version: int

    def __str__(self) -> str:
        own = self.holder.stage == self.of
        return f"{self.holder}@{self.version}" if own else f"{self.holder}:{self.of}@{self.version}"


class StateId(NamedTuple):
    """An exact state of a stage: that which a life of a seat had after ``version`` iterations."""

    seat: Address
    life: int
    version: int


@dataclass(frozen=True)
class Recipe:
    """What one seat is rebuilt from, and by which rule (its name stands in the records).

    ``moments``: the optimizer's state is sent too; a rule that starts a fresh one needs none.
    ``boundary`` are seats that may hold what went into the stage and came out of it in the last
    iterations; each sends its newest ``pairs``. ``fit``: local steps on them. ``bound``: the
    largest error on them that is accepted, as a share of that of skipping the stage. ``ahead``:
    iterations for which sources that say how they were moving are moved on.
    """

    rule: str
    sources: tuple[Source, ...] = ()
    moments: bool = True
    boundary: tuple[Address, ...] = ()
    pairs: int = 0
    fit: int = 0
    bound: float | None = None
    ahead: float = 0.0


class Relog(NamedTuple):
    """What a living seat computes again beside its state, for what it sent then is not logged: from
    the recipe's source on, to version ``until``."""

    recipe: Recipe
    until: int


@dataclass(frozen=True)
class Repair:
    """A plan to make every seat whole again; training goes on at iteration ``resume_at``.
    ``relogs``: seats that keep what they have, and help others to be replayed."""

    rebuild: Mapping[Address, Recipe]
    resume_at: int
    relogs: Mapping[Address, Relog] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """Why a strategy cannot recover a loss, and what would have helped. One line."""

    reason: str


@dataclass(frozen=True)
class Protection:
    """What lost stages can be replayed from, see ``checkfree.recovery.replay``.

    ``base``: the version that replays begin at, None: there is none. ``copies`` are the exact ones
    of that version that can be counted on; ``clones`` whose own one it still has. ``stored``: the
    store has that version of every stage; ``drawn``: it is what the seed makes. ``logs``: since
    which version a seat's log is whole. ``routes`` are those of each iteration since the base;
    ``reached``: versions of seats that are being replayed. ``since``: the versions at which stages
    were last made of something else than what they were: no replay goes past that. ``asked``: so
    many copies of each stage are to be there.
    """

    base: int | None
    copies: frozenset[Source] = frozenset()
    clones: frozenset[Address] = frozenset()
    stored: bool = False
    drawn: bool = False
    logs: Mapping[Address, int] = field(default_factory=dict)
    routes: Mapping[int, tuple[Route, ...]] = field(default_factory=dict)
    reached: Mapping[Address, int] = field(default_factory=dict)
    since: Mapping[int, int] = field(default_factory=dict)
    asked: int = 1


@dataclass(frozen=True)
class View:
    """What a strategy may know when it plans: who lives, and what is kept where.

    ``keeps`` are the exact copies whose holder lives, all of iteration ``committed``;
    ``checkpoints`` the versions that the store offers, ascending; ``repairs`` how many repairs
    this run has made. ``shadows`` are those that can be counted on, ``pushed`` also those on their
    way; ``falling`` is how much the loss falls per iteration, None as long as that isn't known.
    ``rejected``: what was tried for these losses and proved no good. ``protection``: None where
    nothing is logged. ``chunks`` of each body stage.
    """

    alive: frozenset[Address]
    num_stages: int
    committed: int
    keeps: frozenset[Mirror] = frozenset()
    checkpoints: tuple[int, ...] = ()
    repairs: int = 0
    seats: frozenset[Address] = field(default_factory=frozenset)
    shadows: frozenset[Shadow] = frozenset()
    pushed: frozenset[Shadow] = frozenset()
    falling: float | None = None
    rejected: frozenset[Rung] = frozenset()
    protection: Protection | None = None
    chunks: Chunks = Chunks.WHOLE

    def living(self, stage: int) -> Address | None:
        """The first living replica of a stage."""
        return min((a for a in self.alive if a.stage == stage), default=None)

    def held(self, stage: int) -> tuple[Source, ...]:
        """The exact copies of a stage that live, by holder."""
        holders = sorted(keep.holder for keep in self.keeps if keep.owner.stage == stage)
        return tuple(Source(holder, stage, self.committed) for holder in holders)

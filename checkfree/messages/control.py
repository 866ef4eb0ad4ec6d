"""Messages without tensors: between lead, workers, store and runtime.

``Ticket`` fences work on one iteration, ``epoch`` everything that belongs to one repair: both
only grow, so whatever a message of an older one says is dropped. ``life`` counts who has sat at
an address: Lost(w, 0) may arrive after Joined(w, 1), and must not take the new one with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

from checkfree.ops import Address, Keep, Recipe, Route, Schedule, Shadow, Source
from checkfree.record import IterationRecord


class Message:
    """Anything that one actor sends to another."""


Outgoing = tuple[Address, Message]


class Purpose(IntEnum):
    """Why microbatches run. A validation of iteration i comes before the training of i."""

    VALIDATE = 0
    TRAIN = 1


class Ticket(NamedTuple):
    """The name of one attempt; a newer one is greater."""

    epoch: int
    iteration: int
    purpose: Purpose = Purpose.TRAIN


# --- an iteration, lead and workers --------------------------------------------------------


@dataclass(frozen=True)
class Begin(Message):
    """lead -> worker: run your ops. ``keeps`` are the exact ones that ride in this iteration, and
    the shadows to push when it is committed. ``shadows`` are those that count: others may go."""

    ticket: Ticket
    routes: tuple[Route, ...]
    schedule: Schedule
    keeps: tuple[Keep, ...] = ()
    shadows: tuple[Shadow, ...] = ()


@dataclass(frozen=True)
class Prepared(Message):
    """worker -> lead: my ops ran, my gradient is reduced and my keeps are here."""

    ticket: Ticket
    sender: Address
    losses: tuple[tuple[int, float], ...]  # (microbatch, mean loss), stage 0 only
    gradient_norm: float
    forwards: int
    shadow_forwards: int


@dataclass(frozen=True)
class Commit(Message):
    """lead -> worker: step, with your stage's gradient times its factor. ``record`` is what the
    lead will write down of it: whoever stepped can tell another lead."""

    ticket: Ticket
    clip: Mapping[int, float]
    record: IterationRecord | None = None


@dataclass(frozen=True)
class Stepped(Message):
    """worker -> lead."""

    ticket: Ticket
    sender: Address


@dataclass(frozen=True)
class Abort(Message):
    """lead -> worker: stop working on anything older than this epoch."""

    epoch: int


# --- what is put aside ---------------------------------------------------------------------

CHECKPOINT, RESUME, WEIGHTS = "checkpoint", "resume", "weights"
"""Areas of the store: a strategy's, the snapshots of ``--resume``, and the finished run's."""
HANDOVER = "handover"
"""One more, and the rule by which it is used: what the last one of a stage left for others."""


@dataclass(frozen=True)
class Push(Message):
    """lead -> owner: send your state of ``version`` to the holder. If that is the store, it goes
    to the ``area`` and ``shelf`` of an Archive."""

    epoch: int
    keep: Keep
    version: int
    area: str = ""
    shelf: int = 0


@dataclass(frozen=True)
class Kept(Message):
    """holder -> lead."""

    epoch: int
    keep: Keep
    version: int


@dataclass(frozen=True)
class Archive(Message):
    """lead -> store: when the parts of these seats are all here, they are an archive. Of the
    checkpoints only those ``known`` to the run are still worth keeping: a rollback forgot the
    others."""

    epoch: int
    area: str
    shelf: int
    seats: tuple[Address, ...]
    known: tuple[int, ...] = ()
    note: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Archived(Message):
    """store -> lead: the archive is complete; ``offered`` are all of that area, ascending."""

    epoch: int
    area: str
    shelf: int
    offered: tuple[int, ...]


# --- recovery ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rebuild(Message):
    """lead -> worker: become what the strategy makes of these sources."""

    epoch: int
    life: int
    recipe: Recipe
    tick: int
    resume_at: int


@dataclass(frozen=True)
class StateRequest(Message):
    """worker -> the holder of a source. The store sends what it has, moments or not, of the
    ``area`` of its archives."""

    epoch: int
    reply_to: Address
    source: Source
    moments: bool = True
    area: str = CHECKPOINT


@dataclass(frozen=True)
class BoundaryRequest(Message):
    """worker -> whoever may hold what went into ``stage`` or came out of it: your newest, please,
    at most ``pairs`` of each."""

    epoch: int
    reply_to: Address
    stage: int
    pairs: int


@dataclass(frozen=True)
class Rebuilt(Message):
    """worker -> lead. ``problem`` says why it failed, ``bad`` which sources were no good;
    ``rejected``: the sources are good, and what the rule made of them isn't. ``check`` has the
    figures that this was judged by."""

    epoch: int
    life: int
    sender: Address
    weights: tuple[float, ...] = ()
    bytes: int = 0
    problem: str = ""
    bad: tuple[Source, ...] = ()
    rejected: bool = False
    check: Mapping[str, float] = field(default_factory=dict)


# --- a change of lead ------------------------------------------------------------------------


class Copy(NamedTuple):
    """An exact copy as its holder has it: of which stage, after so many iterations, and since
    which epoch it has been stepped with its owner."""

    stage: int
    version: int
    since: int


class Pushed(NamedTuple):
    """A shadow as its holder has it: of what, after so many iterations, from which epoch."""

    keep: Keep
    version: int
    epoch: int


@dataclass(frozen=True)
class Rollcall(Message):
    """lead -> worker: say how you stand. ``lead`` is its life: nobody answers an earlier one than
    the last that it heard."""

    lead: int


@dataclass(frozen=True)
class Standing(Message):
    """worker -> lead: the answer to the Rollcall of its life ``lead``.

    ``heard`` is the highest epoch that came to the worker, ``committed`` the last Commit that it
    stepped for, ``prepared`` the ticket whose gradient it keeps until it is told what to do.
    """

    lead: int
    sender: Address
    life: int
    hollow: bool
    version: int
    heard: int
    committed: Commit | None = None
    prepared: Ticket | None = None
    copies: tuple[Copy, ...] = ()
    shadows: tuple[Pushed, ...] = ()


# --- the runtime and the lead ----------------------------------------------------------------


@dataclass(frozen=True)
class Lost(Message):
    """runtime -> lead: this life of the worker will not answer again."""

    worker: Address
    life: int


@dataclass(frozen=True)
class Joined(Message):
    """runtime -> lead: an empty worker sits at this address."""

    worker: Address
    life: int


@dataclass(frozen=True)
class Leaving(Message):
    """runtime of a worker -> lead: this life would like to go, once its state is in good hands."""

    worker: Address
    life: int


@dataclass(frozen=True)
class Dismissed(Message):
    """lead -> worker: it may go; nobody waits for it any more."""

    worker: Address
    life: int


@dataclass(frozen=True)
class Due(Message):
    """lead -> faults: nobody works, and ``tick`` would be next."""

    epoch: int
    tick: int


@dataclass(frozen=True)
class Struck(Message):
    """faults -> lead: who was lost and who joined because of that; nobody: begin. ``left``: who
    did so of its own will, in a run that is replayed."""

    epoch: int
    tick: int
    lost: tuple[tuple[Address, int], ...] = ()
    joined: tuple[tuple[Address, int], ...] = ()
    left: tuple[tuple[Address, int], ...] = ()


@dataclass(frozen=True)
class Note(Message):
    """lead -> log: a record to write down, and its place among all records."""

    number: int
    record: Any

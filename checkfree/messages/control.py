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

from checkfree.core.live import ReplayProgress
from checkfree.core.ops import (
    Address,
    Course,
    Keep,
    Location,
    Mirror,
    Recipe,
    Route,
    Schedule,
    Shadow,
    Source,
    StateId,
    Transfer,
)
from checkfree.core.records import IterationRecord


class Message:
    """Anything that one actor sends to another."""


Outgoing = tuple[Address, Message]


class Purpose(IntEnum):
    """Why microbatches run. A validation of iteration i comes before the training of i."""

    VALIDATE = 0
    TRAIN = 1
    REPLAY = 2
    """As in training, by a seat that makes up for what it has lost."""


class Ticket(NamedTuple):
    """The name of one attempt; a newer one is greater."""

    epoch: int
    iteration: int
    purpose: Purpose = Purpose.TRAIN


# --- an iteration, between the lead and its workers -----------------------------------------------


class Pushed(NamedTuple):
    """A shadow as its holder has it: of what, after so many iterations, from which epoch."""

    keep: Transfer
    version: int
    epoch: int


@dataclass(frozen=True)
class Begin(Message):
    """lead -> worker: run your ops. ``mirrors`` ride in this iteration, ``transfers`` are sent when
    it is committed. ``shadows`` are those that count: others may go.
    ``snapshot``: of these seats the state goes to that shelf of the store, in the background, when
    this is committed. ``logs``: the version since which what seats sent is kept for replays; None:
    nothing is. ``wave``: these keep a copy of the state that this makes, to be pushed."""

    ticket: Ticket
    routes: tuple[Route, ...]
    schedule: Schedule
    mirrors: tuple[Mirror, ...] = ()
    transfers: tuple[Transfer, ...] = ()
    shadows: tuple[Shadow, ...] = ()
    snapshot: tuple[Address, ...] = ()
    shelf: int = 0
    logs: int | None = None
    wave: tuple[Address, ...] = ()


@dataclass(frozen=True)
class Prepared(Message):
    """worker -> lead: my ops ran, my gradient is reduced, and so are those of what I mirror.
    ``logged``: bytes that this adds to my log."""

    ticket: Ticket
    sender: Address
    losses: tuple[tuple[int, float], ...]  # (microbatch, mean loss), stage 0 only
    gradient_norm: float
    forwards: int
    redundant_forwards: int
    logged: int = 0


@dataclass(frozen=True)
class Commit(Message):
    """lead -> worker: step, with your stage's gradient times its factor. ``record`` is what the
    lead will write down of it, ``shadows`` are those that it counts or waits for from here on:
    whoever stepped can tell another lead."""

    ticket: Ticket
    clip: Mapping[int, float]
    record: IterationRecord | None = None
    shadows: tuple[Pushed, ...] = ()


@dataclass(frozen=True)
class Stepped(Message):
    """worker -> lead. ``digest``: of the state that this made, while it is logged."""

    ticket: Ticket
    sender: Address
    digest: int | None = None


@dataclass(frozen=True)
class Abort(Message):
    """lead -> worker: stop working on anything older than this epoch."""

    epoch: int


# --- copies and shadows on other seats, archives in the store -------------------------------------


CHECKPOINT, RESUME, WEIGHTS = "checkpoint", "resume", "weights"
"""Areas of the store: a strategy's, the snapshots of ``--resume``, and the finished run's."""
HANDOVER = "handover"
"""One more, and the rule by which it is used: what the last one of a stage left for others."""
WAVE = "wave"
"""No area of the store: of an exact copy that another seat holds, for replays."""
INIT = "init"
"""And one that a run never writes to: the state that it begins with, if not with drawn weights."""
AVERAGE = "average"
"""One more, of weights without moments: the states that a run's average is made of at its end."""
MERGED = "merged"
"""The folder of averages that are made of a run's states, each an area of its own:
``merged/NAME``."""
SNAPSHOT = "snapshot"
"""The rule of the last rung: all go back to a snapshot of ``--resume``, or to the beginning."""


@dataclass(frozen=True)
class Push(Message):
    """lead -> owner: send your state of ``version`` to the holder. If that is the store, it goes
    to the ``area`` and ``shelf`` of an Archive. ``held_only``: a replica sends the state, and you
    only what you hold for other stages. ``whole``: in a snapshot, activations that only a fit would
    read too. ``doubted``: say that it is ``Doubtful`` instead, if it is. What is handed on is named
    by its version, so that no epoch outdates it."""

    epoch: int
    keep: Keep
    version: int
    area: str = ""
    shelf: int = 0
    held_only: bool = False
    whole: bool = True
    doubted: bool = False


@dataclass(frozen=True)
class Doubtful(Message):
    """worker -> lead: I was to send the run's last weights, and mine may have gone too far. Nobody
    has validated them yet."""

    epoch: int
    sender: Address


@dataclass(frozen=True)
class Kept(Message):
    """holder -> lead."""

    epoch: int
    keep: Mirror | Transfer
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
class Withdraw(Message):
    """lead -> store: who was to send the ``shelf`` of what is handed on is gone. Answered by what
    is ``Archived``, with it or without."""

    shelf: int


@dataclass(frozen=True)
class Archived(Message):
    """store -> lead: the archive is complete; ``offered`` are all of that area, ascending."""

    epoch: int
    area: str
    shelf: int
    offered: tuple[int, ...]


# --- a seat that is rebuilt, and what it asks others for ------------------------------------------


@dataclass(frozen=True)
class Again:
    """What a stage runs once more, from version ``start`` on: of each iteration by which of the
    ``courses``, which have the ops of its own seats alone, by what its gradient is multiplied, and
    the norm that it had before.

    ``seats`` are those that may have sent it something then, and ``clones`` versions to keep a copy
    of. ``area``: where the store has what it begins with. ``aside``: the seat keeps what it has,
    for this only makes its log whole; ``logged`` are those of its stage that have what they sent in
    their own since these versions, itself too. ``copied`` and ``digest``: sums over what it begins
    with and what has to come out, if those are known. ``tolerance``: by what share norms may differ
    if it does not; None: as suits what computes.
    """

    start: int
    courses: tuple[Course, ...]
    steps: tuple[tuple[int, float, float], ...]
    seats: tuple[Address, ...]
    clones: tuple[int, ...] = ()
    area: str = RESUME
    aside: bool = False
    copied: int | None = None
    digest: int | None = None
    tolerance: float | None = None
    logged: Mapping[Address, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Rebuild(Message):
    """lead -> worker: become what the strategy makes of these sources; and go on from there as
    ``again`` tells."""

    epoch: int
    life: int
    recipe: Recipe
    tick: int
    resume_at: int
    again: Again | None = None


@dataclass(frozen=True)
class Resend(Message):
    """A seat that is replayed -> whoever may have sent its stage something in that iteration: once
    more, please; and if you are still on your way there, as soon as you have it."""

    epoch: int
    reply_to: Address
    iteration: int


@dataclass(frozen=True)
class Unlogged(Message):
    """worker -> lead: what I had sent before version ``since`` can't be read any more."""

    sender: Address
    life: int
    since: int


@dataclass(frozen=True)
class Replaying(Message):
    """worker -> lead: so far I have come. The first says that the copy is there."""

    epoch: int
    life: int
    sender: Address
    version: int


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


# --- who comes and goes: the lead, and the runtime, the faults and the log ------------------------


@dataclass(frozen=True)
class Lost(Message):
    """runtime -> lead: this life of the worker will not answer again. ``silent``: all that is
    known is that it can't be heard, so it may come back with its state; until ``Gone`` says that
    it won't, nothing inexact stands in for it."""

    worker: Address
    life: int
    silent: bool = False


@dataclass(frozen=True)
class Gone(Message):
    """runtime -> lead: a life that fell silent was waited for long enough; or an heir is lost."""

    worker: Address
    life: int


@dataclass(frozen=True)
class Joined(Message):
    """runtime -> lead: a worker sits at this address, uninitialized but for an exact state that
    it may bring along: one that it had in an earlier life, or that a leaver has sent it. ``at``:
    where it is, if that is known."""

    worker: Address
    life: int
    brings: StateId | None = None
    at: Location | None = None


@dataclass(frozen=True)
class Leaving(Message):
    """runtime -> lead: this life would like to go, once its state is in good hands: those of
    ``heir``, an address that takes it straight from the owner, else the store's. ``urgent``: it
    may be killed before the iteration ends, so its state is sent at once."""

    worker: Address
    life: int
    heir: Address | None = None
    urgent: bool = True


@dataclass(frozen=True)
class Stays(Message):
    """runtime -> lead: this life that was to leave does not, for its heir is lost."""

    worker: Address
    life: int


@dataclass(frozen=True)
class HandedOn(Message):
    """runtime -> lead: the heir of a leaver has its state."""

    state: StateId
    heir: Address


@dataclass(frozen=True)
class BreakOff(Message):
    """runtime -> lead: this leaver will be gone before the iteration under way can end."""

    worker: Address
    life: int


@dataclass(frozen=True)
class Reroute(Message):
    """runtime -> lead: from the next iteration on, microbatches go these ways whenever it is these
    seats that live; whatever was said before is void."""

    seats: tuple[Address, ...]
    """Sorted."""
    routes: tuple[Route, ...]


@dataclass(frozen=True)
class Severed(Message):
    """runtime -> lead: what these two, who both live, said to each other of late may be lost."""

    one: Address
    other: Address


@dataclass(frozen=True)
class Stop(Message):
    """runtime -> lead: begin nothing more, and put aside what is committed."""


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


@dataclass(frozen=True)
class Underway(Message):
    """lead -> log, of a run whose stages are replayed, whenever it changes: what nobody writes
    down, but whoever watches may see, and when it was so. ``whole``: every seat has a state.
    ``unprotected``: as in a LiveStatus."""

    whole: bool
    replays: tuple[ReplayProgress, ...]
    unprotected: Mapping[int, int] | None


# --- a change of lead: how everybody stands -------------------------------------------------------


class Copy(NamedTuple):
    """An exact copy as its holder has it: of which stage, after so many iterations, and since
    which epoch it has been stepped with its owner."""

    stage: int
    version: int
    since: int


class ForReplays(NamedTuple):
    """What a seat has that stages can be replayed from: its log is whole since ``log``, has so many
    ``bytes``, and is needed since ``since``; ``own`` are versions that it has a copy of, ``copies``
    stages and versions of others. ``reached``: it is being replayed, and has come so far."""

    log: int
    since: int | None = None
    own: tuple[int, ...] = ()
    copies: tuple[tuple[int, int], ...] = ()
    reached: int | None = None
    bytes: int = 0


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
    uninitialized: bool
    version: int
    heard: int
    committed: Commit | None = None
    prepared: Ticket | None = None
    copies: tuple[Copy, ...] = ()
    shadows: tuple[Pushed, ...] = ()
    replayable: ForReplays | None = None

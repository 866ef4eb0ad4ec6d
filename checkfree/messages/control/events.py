"""What the runtime, the faults and the log have to do with the lead: who comes and goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from checkfree.core.ops import Address, StateId
from checkfree.messages.control.ticket import Message


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
    it may bring along: one that it had in an earlier life, or that a leaver has sent it."""

    worker: Address
    life: int
    brings: StateId | None = None


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

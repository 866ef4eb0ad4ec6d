"""What the runtime, the faults and the log have to do with the lead: who comes and goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from checkfree.messages.control.ticket import Message
from checkfree.ops import Address


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

"""An iteration, between the lead and its workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from checkfree.core.ops import Address, Mirror, Route, Schedule, Shadow, Transfer
from checkfree.core.records import IterationRecord
from checkfree.messages.control.aside import Pushed
from checkfree.messages.control.ticket import Message, Ticket


@dataclass(frozen=True)
class Begin(Message):
    """lead -> worker: run your ops. ``mirrors`` ride in this iteration, ``transfers`` are sent when
    it is committed. ``shadows`` are those that count: others may go.
    ``snapshot``: of these seats the state goes to that shelf of the store, in the background, when
    this is committed."""

    ticket: Ticket
    routes: tuple[Route, ...]
    schedule: Schedule
    mirrors: tuple[Mirror, ...] = ()
    transfers: tuple[Transfer, ...] = ()
    shadows: tuple[Shadow, ...] = ()
    snapshot: tuple[Address, ...] = ()
    shelf: int = 0


@dataclass(frozen=True)
class Prepared(Message):
    """worker -> lead: my ops ran, my gradient is reduced, and so are those of what I mirror."""

    ticket: Ticket
    sender: Address
    losses: tuple[tuple[int, float], ...]  # (microbatch, mean loss), stage 0 only
    gradient_norm: float
    forwards: int
    redundant_forwards: int


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
    """worker -> lead."""

    ticket: Ticket
    sender: Address


@dataclass(frozen=True)
class Abort(Message):
    """lead -> worker: stop working on anything older than this epoch."""

    epoch: int

"""A change of lead: how everybody stands."""

from __future__ import annotations

from dataclasses import dataclass

from checkfree.core.ops import Address
from checkfree.messages.control.aside import Copy, Pushed
from checkfree.messages.control.iteration import Commit
from checkfree.messages.control.ticket import Message, Ticket


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

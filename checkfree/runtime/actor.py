"""The seam between what computes and what carries messages."""

from __future__ import annotations

from typing import Protocol

from checkfree.messages.control import Message, Outgoing


class Actor(Protocol):
    """A StageWorker, the Lead, the Store: no I/O of its own, no clock, no thread."""

    def deliver(self, message: Message) -> None:
        """File a message; never compute, never block."""

    def advance(self) -> list[Outgoing] | None:
        """Do at most one op and return what to send; None: only a message can help."""

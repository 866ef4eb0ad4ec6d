"""The seam between what computes and what carries messages."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from checkfree.messages.control import RESUME, WEIGHTS, Message, Outgoing
from checkfree.messages.tensors import tensor_bytes


class Actor(Protocol):
    """A StageWorker, the Lead, the Store: no I/O of its own, no clock, no thread."""

    def deliver(self, message: Message) -> None:
        """File a message; never compute, never block."""

    def advance(self) -> list[Outgoing] | None:
        """Do at most one op and return what to send; None: only a message can help."""


class Traffic:
    """Messages and bytes that actors have sent, by name of message: what a ledger tells.
    ``--resume`` and the finished weights are no strategy's cost."""

    def __init__(self) -> None:
        self.messages: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def count(self, message: Message) -> None:
        """One more."""
        if getattr(message, "area", "") in (RESUME, WEIGHTS):
            return
        name = type(message).__name__
        self.messages[name] += 1
        self.bytes[name] += tensor_bytes(message)

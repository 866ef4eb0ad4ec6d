"""What arrives for an iteration before its Begin does: its senders were told first.

Tickets only grow, and what is older than the one that begins can be forgotten. But a newer one does
not make what is held of an older one useless: that it will ever begin is only what a message says.
"""

from __future__ import annotations

from checkfree.messages.control import Ticket
from checkfree.worker.attempt import Data

MOST = 2**13
"""Messages: more than 512 microbatches on swapped routes bring to one seat."""


class ReorderBuffer:
    """By ticket; when there is no room left, for those that are to begin first."""

    def __init__(self) -> None:
        self._held: dict[Ticket, list[Data]] = {}
        self._count = 0

    def file(self, message: Data) -> int:
        """How many messages were dropped for want of room: this one, or others."""
        dropped = 0
        if self._count >= MOST:
            last = max(self._held)
            if message.ticket >= last:
                return 1
            dropped = self._drop(last)
        self._held.setdefault(message.ticket, []).append(message)
        self._count += 1
        return dropped

    def take(self, ticket: Ticket) -> list[Data]:
        """Those of a ticket that begins; what is older is forgotten."""
        found = self._held.get(ticket, [])
        self._forget([held for held in self._held if held <= ticket])
        return found

    def forget(self, epoch: int) -> None:
        """All that is older than ``epoch``: it will never begin."""
        self._forget([held for held in self._held if held.epoch < epoch])

    def _forget(self, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            self._drop(ticket)

    def _drop(self, ticket: Ticket) -> int:
        dropped = len(self._held.pop(ticket))
        self._count -= dropped
        return dropped

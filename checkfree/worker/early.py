"""What arrives for an iteration before its Begin does: its senders were told first.

Tickets only grow, and none is begun before the one before it is over. So only the newest ticket's
messages can be of any use, and there is no need to hold those of another.
"""

from __future__ import annotations

from checkfree.messages.control import Ticket
from checkfree.worker.attempt import Data

MOST = 2**13
"""Messages: more than 512 microbatches on swapped routes bring to one seat."""


class Early:
    """Of one ticket at a time."""

    def __init__(self) -> None:
        self._ticket = Ticket(-1, -1)
        self._held: list[Data] = []

    def file(self, message: Data) -> bool:
        """False: it is of no use, or one too many."""
        if message.ticket > self._ticket:
            self._ticket, self._held = message.ticket, []
        fits = message.ticket == self._ticket and len(self._held) < MOST
        if fits:
            self._held.append(message)
        return fits

    def take(self, ticket: Ticket) -> list[Data]:
        """Those of a ticket that begins; what is older is forgotten."""
        if self._ticket > ticket:
            return []
        held, self._held = self._held, []
        return held if self._ticket == ticket else []

    def forget(self, epoch: int) -> None:
        """All that is older than ``epoch``: it will never begin."""
        if self._ticket.epoch < epoch:
            self._held = []

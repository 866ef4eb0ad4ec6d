"""What a shadow of ``signs`` is a change of: what its owner's last push has left at its holder.

    version    4       12                20                 33      41
    sent       whole   change since 4    change since 12    whole   change since 33
                                                         ^ its holder was lost

The owner keeps what the holder has made of all that it got, and sends a change only of a version
that the lead counts there. So a holder that was lost or replaced, another owner, a rollback and a
push that is still on its way are followed by a whole copy, never by a change of what isn't there.
An owner that was lost itself, and restarted from what a holder has, goes on with a change of that.

No tensors: a worker keeps weights in it, a rehearsal nothing, and both send whole copies alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from checkfree.core.formats import BF16, INT4_ROWS, SIGNS
from checkfree.core.ops import Address, Shadow, Transfer
from checkfree.messages.control import Begin

WHOLE = INT4_ROWS
"""How a copy is written that changes begin with. Half a byte a weight is as much as four of them;
what it leaves out is about as much as a stage changes between two pushes, and the next changes make
up for it: restarts cost no more than with int8, see ``experiments/catching_up``."""

HELD = BF16
"""What owner and holder keep, both rounded alike. What rounding leaves out the next change has."""

T = TypeVar("T")


@dataclass(frozen=True)
class Left(Generic[T]):
    """What a holder has: of which version, and ``item`` says what it is."""

    version: int
    item: T


class References(Generic[T]):
    """Of one seat, by holder."""

    def __init__(self, seat: Address):
        self._seat = seat
        self._left: dict[Address, Left[T]] = {}

    def tidy(self, plan: Begin) -> None:
        """Only those that count, and what may count soon. And only the first seat of a stage
        pushes: what another one had left is no longer what its holder has."""
        stage = self._seat.stage
        first = min((seat for seat in plan.schedule if seat.stage == stage), default=self._seat)
        late = plan.ticket.iteration - 1  # as holder.py
        self._left = {
            holder: left
            for holder, left in self._left.items()
            if first == self._seat
            and (left.version >= late or Shadow(stage, holder, left.version) in plan.shadows)
        }

    def base(self, keep: Transfer, plan: Begin) -> Left[T] | None:
        """What the push of ``keep`` after that plan is a change of; None: it is whole."""
        left = self._left.get(keep.holder)
        if left is None or Shadow(keep.owner.stage, keep.holder, left.version) not in plan.shadows:
            return None
        return left

    def leave(self, holder: Address, version: int, item: T) -> None:
        """It was sent what makes it have ``item``."""
        self._left[holder] = Left(version, item)

    def clear(self) -> None:
        """The seat becomes something else: nothing is a change of that."""
        self._left = {}

    def items(self) -> Iterator[tuple[Address, Left[T]]]:
        """All of it, by holder."""
        yield from sorted(self._left.items(), key=lambda entry: entry[0])


def held_as(how: str) -> str:
    """How a holder keeps a shadow that is pushed as ``how``."""
    return HELD if how == SIGNS else how

"""What goes first between two processes, and in which pieces. Pure.

There are two streams from one process to another, so that a word never waits behind megabytes that
a slow line has not taken yet::

    control   notices (heartbeats), then all that lead and workers say to each other
    data      activations and gradients, then states that somebody waits for, then the background

A message of one lane is sent whole before the next one of that lane, and between any two of its
pieces whatever is of an earlier lane goes first.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from checkfree.core.ops import Address
from checkfree.messages.control import RESUME, Message
from checkfree.messages.tensors import (
    Activation,
    BoundaryReply,
    Gradient,
    KeepGradient,
    KeepShadow,
    KeepState,
    Share,
    StateReply,
)

Parts = Sequence[bytes | memoryview]

PIECE = 1 << 18
"""Bytes of a word that are sent before a notice may go first: 0.2 s of a line of 10 Mbit."""
LARGEST_PIECE = 1 << 22
"""Bytes that a receiver takes as one. Of what is paced, as much goes as one as its line takes in a
fraction of a second (``pace.py``)."""
MOST_BEHIND = 1 << 26
"""Bytes of what is trained on that may wait for a line behind the message that it takes: as many as
the longest of lines has on its way at once. Whoever has more to send computes nothing until then.
"""


class Lane(IntEnum):
    """The first goes first."""

    CONTROL = 0
    DATA = 1
    STATE = 2
    BACKGROUND = 3


def lane_of(message: Message) -> Lane:
    """Nobody trains while states are awaited, so those come after what is trained on; and what
    nobody waits for, last."""
    match message:
        case Activation() | Gradient() | Share() | KeepGradient():
            return Lane.DATA
        case KeepShadow():
            return Lane.BACKGROUND
        case KeepState() if message.area == RESUME:
            return Lane.BACKGROUND
        case KeepState() | StateReply() | BoundaryReply():
            return Lane.STATE
    return Lane.CONTROL


@dataclass(frozen=True)
class Piece:
    """The next bytes of a message to ``to``; of a notice, all of it, and ``lane`` None."""

    lane: Lane | None
    to: Address
    parts: tuple[bytes | memoryview, ...]

    @property
    def size(self) -> int:
        return sum(map(len, self.parts))


@dataclass
class _Waiting:
    to: Address
    parts: deque[memoryview]
    size: int
    begun: bool = False


@dataclass
class Pieces:
    """What waits to be sent over one stream."""

    notices: deque[bytes] = field(default_factory=deque)
    lanes: dict[Lane, deque[_Waiting]] = field(
        default_factory=lambda: {lane: deque() for lane in Lane}
    )
    behind: Counter[Lane] = field(default_factory=Counter)
    """Bytes of all messages of which nothing has left."""

    def __bool__(self) -> bool:
        return bool(self.notices) or any(self.lanes.values())

    def put(self, lane: Lane, to: Address, parts: Parts) -> None:
        """A message."""
        views = deque(memoryview(part).cast("B") for part in parts if len(part))
        size = sum(map(len, views))
        self.lanes[lane].append(_Waiting(to, views, size))
        self.behind[lane] += size

    def take(self, most: Callable[[Lane], int]) -> Piece | None:
        """What goes next: at most so many bytes of its lane; None: nothing may, now."""
        if self.notices:
            return Piece(None, Address(0), (self.notices.popleft(),))
        for lane, waiting in self.lanes.items():
            room = most(lane) if waiting else 0
            if room > 0:
                return self._cut(lane, waiting, room)
        return None

    def _cut(self, lane: Lane, waiting: deque[_Waiting], room: int) -> Piece:
        message, taken = waiting[0], list[bytes | memoryview]()
        if not message.begun:
            message.begun = True
            self.behind[lane] -= message.size
        while message.parts and room > 0:
            view = message.parts.popleft()
            taken.append(view[:room])
            if len(view) > room:
                message.parts.appendleft(view[room:])
            room -= len(taken[-1])
        if not message.parts:
            waiting.popleft()
        return Piece(lane, message.to, tuple(taken))

"""What names an attempt at an iteration, and what every message is."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from checkfree.core.ops import Address


class Message:
    """Anything that one actor sends to another."""


Outgoing = tuple[Address, Message]


class Purpose(IntEnum):
    """Why microbatches run. A validation of iteration i comes before the training of i."""

    VALIDATE = 0
    TRAIN = 1


class Ticket(NamedTuple):
    """The name of one attempt; a newer one is greater."""

    epoch: int
    iteration: int
    purpose: Purpose = Purpose.TRAIN

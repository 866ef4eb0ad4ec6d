"""What is put aside: copies and shadows on other seats, archives in the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from checkfree.core.ops import Address, Keep, Mirror, Transfer
from checkfree.messages.control.ticket import Message

CHECKPOINT, RESUME, WEIGHTS = "checkpoint", "resume", "weights"
"""Areas of the store: a strategy's, the snapshots of ``--resume``, and the finished run's."""
HANDOVER = "handover"
"""One more, and the rule by which it is used: what the last one of a stage left for others."""
SNAPSHOT = "snapshot"
"""The rule of the last rung: all go back to a snapshot of ``--resume``, or to the beginning."""


@dataclass(frozen=True)
class Push(Message):
    """lead -> owner: send your state of ``version`` to the holder. If that is the store, it goes
    to the ``area`` and ``shelf`` of an Archive. ``held_only``: a replica sends the state, and you
    only what you hold for other stages. ``whole``: in a snapshot, activations that only a fit would
    read too. What is handed on is named by its version, so that no epoch outdates it."""

    epoch: int
    keep: Keep
    version: int
    area: str = ""
    shelf: int = 0
    held_only: bool = False
    whole: bool = True


@dataclass(frozen=True)
class Kept(Message):
    """holder -> lead."""

    epoch: int
    keep: Mirror | Transfer
    version: int


@dataclass(frozen=True)
class Archive(Message):
    """lead -> store: when the parts of these seats are all here, they are an archive. Of the
    checkpoints only those ``known`` to the run are still worth keeping: a rollback forgot the
    others."""

    epoch: int
    area: str
    shelf: int
    seats: tuple[Address, ...]
    known: tuple[int, ...] = ()
    note: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Withdraw(Message):
    """lead -> store: who was to send the ``shelf`` of what is handed on is gone. Answered by what
    is ``Archived``, with it or without."""

    shelf: int


@dataclass(frozen=True)
class Archived(Message):
    """store -> lead: the archive is complete; ``offered`` are all of that area, ascending."""

    epoch: int
    area: str
    shelf: int
    offered: tuple[int, ...]


class Copy(NamedTuple):
    """An exact copy as its holder has it: of which stage, after so many iterations, and since
    which epoch it has been stepped with its owner."""

    stage: int
    version: int
    since: int


class Pushed(NamedTuple):
    """A shadow as its holder has it: of what, after so many iterations, from which epoch."""

    keep: Transfer
    version: int
    epoch: int

"""The processes at the seats of a run, as its launcher knows them, and how they are killed."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

LEAD_SEAT = "lead"
WORKER = "worker-"
"""What local processes of a run that others may join are called: ``worker-0`` …"""
SIGNALS = {"KILL": signal.SIGKILL, "STOP": signal.SIGSTOP, "CONT": signal.SIGCONT}


@dataclass
class Child:
    """A process at a seat. One without a pid was not spawned yet, or is of another machine."""

    seat: str
    life: int
    pid: int = 0
    alive: bool = True
    peer: Any = None
    """Where its streams are opened, once the lead has seen it."""

    @property
    def is_none(self) -> bool:
        """It is the lead, or a worker that has no seat of its own."""
        return self.seat == LEAD_SEAT or self.seat.startswith(WORKER)


@dataclass
class Children:
    """By seat, the newest life of each."""

    by_seat: dict[str, Child] = field(default_factory=dict)

    def put(self, child: Child) -> None:
        """From now on this one has its seat."""
        self.by_seat[child.seat] = child

    def at(self, seat: str, life: int) -> Child | None:
        """Whoever has the seat, if it is of that life."""
        child = self.by_seat.get(seat)
        return child if child is not None and child.life == life else None

    def seated(self) -> list[Child]:
        """Those with a seat of the pipeline."""
        return [child for child in self.by_seat.values() if not child.is_none]

    def kill(self, seat: str, number: int = signal.SIGKILL) -> None:
        """The whole process group: a libp2p daemon may outlive its owner."""
        child = self.by_seat.get(seat)
        if child is not None and child.alive and child.pid:
            send_signal(child.pid, number)


def send_signal(pid: int, number: int) -> None:
    """To a fork and its group, which it leads as soon as it runs."""
    for send in (os.kill, os.killpg):
        with suppress(ProcessLookupError):
            send(pid, number)

"""Who holds the others up: alive, in touch, and yet nothing goes on.

A killed peer ends its stream and a hung one falls silent. What is left are peers that live and
don't get on: slow beyond all measure, stuck in an op, or waiting for a message that was lost.
How long that may take is derived from what an iteration takes here; until one was measured,
nobody is late.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

from checkfree.core.ops import Address, Kind, Op
from checkfree.messages.control import Ticket
from checkfree.runtime.swarm.transport.frames import Peer

TIMES = 10
"""Iterations' worth of time, beside the patience, after which standing still is a stall."""
MEASURED, WARM_UP = 9, 1
"""So many of the last iterations count; the first does not, it sets up memory and streams."""

_PHASES = {
    Kind.FORWARD: "the forward of microbatch {}",
    Kind.BACKWARD: "the backward of microbatch {}",
    Kind.WEIGHTS: "the gradient of the weights by microbatch {}",
    Kind.REDUNDANT: "the redundant forward of microbatch {}",
    Kind.REDUCE: "the all-reduce with its replicas",
}


@dataclass(frozen=True)
class Activity:
    """What a seat has been at for so many ``seconds``: an op of an iteration, or ``waits_for``
    what another is to send for it. ``op`` "" is the end of the iteration: keeps, and the commit.
    Who waits for itself is to do as it was told: to step, to hand on its state, to take another's.
    """

    iteration: int
    op: str
    seconds: float
    waits_for: Address | None = None

    def to_json(self) -> list[Any]:
        """Plain data that :meth:`from_json` makes the same of."""
        waits = None if self.waits_for is None else str(self.waits_for)
        return [self.iteration, self.op, self.seconds, waits]

    @classmethod
    def from_json(cls, plain: Any) -> Activity:
        """Raises ValueError or TypeError for anything else."""
        iteration, op, seconds, waits = plain
        made = cls(int(iteration), str(op), float(seconds), waits and Address.parse(waits))
        if made.op:
            Op.parse(made.op)
        return made


State = tuple[Ticket, Op | None, Address | None]
"""As a worker tells what it is at; see ``StageWorker.doing``."""


class HasState(Protocol):
    """A StageWorker."""

    address: Address

    @property
    def doing(self) -> State | None: ...


class Baselines:
    """Since when a worker has been at one thing. Marked by the thread that computes, read by the
    one that talks: each only ever sees whole values."""

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._mark: tuple[State, float] | None = None

    def watching(self, worker: HasState) -> Callable[[Address | None], None]:
        """Marks what the worker is at, whenever called. With a seat: it waits until that has taken
        some of what was sent to it."""

        def mark(full: Address | None) -> None:
            state = worker.doing
            if state is not None and full is not None:
                state = (*state[:2], full)
            self.mark(state, worker.address)

        return mark

    def mark(self, state: State | None, own: Address | None = None) -> None:
        """What comes next. One message after the other that we are told is no standing still."""
        known = self._mark
        if state is None:
            self._mark = None
        elif known is None or known[0] != state or state[2] == own:
            self._mark = (state, self._now())

    def doing(self) -> Activity | None:
        """What it is at; None: nothing, but for what the lead may say."""
        mark = self._mark
        if mark is None:
            return None
        (ticket, op, lacks), since = mark
        return Activity(ticket.iteration, str(op or ""), self._now() - since, lacks)


@dataclass(frozen=True)
class Stall:
    """Which seat nothing goes on without, and in words what it is at. ``waiter``: who waits for
    what it has not sent, or what has not arrived."""

    seat: Address
    why: str
    waiter: Address | None = None


def find_stall(doings: Mapping[Address, Activity], deadline: float) -> Stall | None:
    """Who is to blame if anybody has been at one thing for longer than ``deadline`` seconds.

    Whoever computes for that long is; if all wait, it is the one at whose end a chain of waiting
    ends: what it sent was lost, or it never did.
    """
    late = {seat: doing for seat, doing in doings.items() if doing.seconds > deadline}
    busy = [seat for seat, doing in late.items() if doing.waits_for is None and doing.op]
    if busy:
        worst = max(busy, key=lambda seat: (late[seat].seconds, seat))
        return Stall(worst, f"has been computing {_told(worst, late[worst])}")
    waiting = [seat for seat, doing in late.items() if doing.waits_for is not None]
    if not waiting:
        return None
    waiter, culprit = _end_of_chain(min(waiting), doings)
    if waiter == culprit and doings[waiter].waits_for == waiter:
        where = f"stage {waiter.stage}, after iteration {doings[waiter].iteration}"
        seconds = doings[waiter].seconds
        return Stall(waiter, f"has not done what it was told ({where}) for {seconds:.1f} s")
    told = _told(waiter, doings[waiter])
    return Stall(culprit, f"has not sent {waiter} what it needs for {told}", waiter)


def _end_of_chain(seat: Address, doings: Mapping[Address, Activity]) -> tuple[Address, Address]:
    """The last that waits, and for whom. A ring of waiters is cut anywhere."""
    seen: set[Address] = set()
    while True:
        seen.add(seat)
        then = doings[seat].waits_for
        assert then is not None
        further = doings.get(then)
        if further is None or further.waits_for is None or then in seen:
            return seat, then
        seat = then


def _told(seat: Address, doing: Activity) -> str:
    op = Op.parse(doing.op) if doing.op else None
    phase = _PHASES[op.kind].format(op.microbatch) if op else "the commit"
    where = f"stage {seat.stage}, iteration {doing.iteration}"
    return f"{phase} ({where}) for {doing.seconds:.1f} s"


class IterationTimer:
    """What an iteration takes here, measured as it goes, and the deadline that follows."""

    def __init__(self, patience: float):
        self._patience = patience
        self._seconds: deque[float] = deque(maxlen=MEASURED)
        self._to_skip = WARM_UP

    def measured(self, seconds: float) -> None:
        """An iteration is over."""
        if self._to_skip:
            self._to_skip -= 1
        else:
            self._seconds.append(seconds)

    @property
    def usual(self) -> float | None:
        """Seconds of an iteration; None as long as nothing was measured."""
        return median(self._seconds) if self._seconds else None

    @property
    def deadline(self) -> float | None:
        """Seconds; None as long as nothing was measured."""
        if not self._seconds:
            return None
        return self._patience + TIMES * median(self._seconds)


def render_deadlines(patience: float, every: float) -> str:
    """What holds, for whoever starts a run."""
    return (
        f"a worker is given up when its stream ends, after {patience:g} s of silence (a pulse "
        f"every {every:g} s), or at one thing for {patience:g} s + {TIMES} iterations' time, as "
        "measured"
    )


class Watch:
    """The lead's eye on those who live and don't get on. ``pulses`` are the last of each peer;
    ``give_up`` is told of whoever holds the others up, in words how, and of who waits for it, if
    somebody does."""

    def __init__(
        self,
        patience: float,
        pulses: Mapping[Peer, Mapping[str, Any]],
        give_up: Callable[[Peer, str, Peer | None], None],
    ):
        self.pace = IterationTimer(patience)
        self._pulses, self._give_up = pulses, give_up

    def look(self, present: Collection[Peer]) -> None:
        """At all who are here. Call it with every beat."""
        deadline = self.pace.deadline
        if deadline is None:
            return
        stall = find_stall(self._doings(present), deadline)
        for peer in [p for p in present if stall is not None and p.seat == stall.seat]:
            assert stall is not None
            waiter = next((p for p in present if p.seat == stall.waiter), None)
            self._give_up(peer, stall.why, waiter)

    def _doings(self, present: Collection[Peer]) -> dict[Address, Activity]:
        """Whoever tells rubbish is at nothing."""
        found = {}
        for peer in present:
            plain = self._pulses.get(peer, {}).get("doing")
            try:
                found[peer.seat] = Activity.from_json(plain)
            except (TypeError, ValueError):
                continue
        return found

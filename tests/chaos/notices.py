"""Seats whose owners get notice and are killed at its end, and links that are cut for a while.

What a notice promises is modelled without a clock: its owner is killed at any delivery from the one
on at which its state is in good hands, but not between its last word for an iteration and the end
of that (a lead that knows how long a notice is breaks off before).
"""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass, field

from checkfree.core.ops import LEAD, Address, StateId
from checkfree.lead import Phase, states_of
from checkfree.messages.control import (
    HANDOVER,
    BreakOff,
    Gone,
    HandedOn,
    Joined,
    Leaving,
    Lost,
    Message,
    Outgoing,
)
from checkfree.messages.tensors import KeepState, StageState
from checkfree.worker import StageWorker
from tests.chaos.chaos import Plan
from tests.tiny import Run

HEIR = 100
"""Added to a replica: where its heir is called."""


@dataclass
class Heir:
    """An actor that takes a leaver's state, and says so."""

    address: Address
    owner: Address
    life: int
    has: dict[int, StageState] = field(default_factory=dict)
    inbox: deque[Message] = field(default_factory=deque)

    def deliver(self, message: Message) -> None:
        self.inbox.append(message)

    def advance(self) -> list[Outgoing] | None:
        if not self.inbox:
            return None
        message = self.inbox.popleft()
        assert isinstance(message, KeepState)
        newest = max((message.state.version, *self.has))  # a stream keeps the order, we don't
        self.has = {newest: self.has.get(newest, message.state)}
        state = StateId(self.owner, self.life, message.state.version)
        return [(LEAD, HandedOn(state, self.address))]


@dataclass
class Notices:
    """``happened`` counts what was done to the run, by name."""

    plan: Plan
    happened: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.plan.seed + 3)
        self.run = self.plan.run(self.plan.strategy(), pick=self.rng.randrange)
        count = self.rng.randrange(1, 4)
        self.due = sorted(self.rng.randrange(1, 300) for _ in range(count))
        self.noticed: dict[Address, int] = {}
        self.later: list[tuple[int, Address, int, StageState | None, StateId | None]] = []
        """(delivery, seat, next life, what it brings, whose that was)"""
        self.cut: list[tuple[int, StageWorker]] = []

    def play(self) -> Run:
        runtime = self.run.runtime
        runtime.run(self._after)
        while (self.later or self.cut) and not (self.run.lead.done or self.run.lead.failure):
            self._catch_up(10**12)
            runtime.run(self._after)
        return self.run

    # --- what happens ----------------------------------------------------------------------------

    def _after(self, to: Address, message: Message) -> None:
        now = self.run.runtime.delivered
        self._catch_up(now)
        if self.run.lead.phase is Phase.ENDED:
            return
        for seat in list(self.noticed):
            self._end_of(seat)
        seats = [s for s in self._workers() if s not in self.noticed]
        if self.due and self.due[0] <= now and seats:
            self.due.pop(0)
            seat = self.rng.choice(sorted(seats))
            self.rng.choice((self._notice, self._notice, self._cut))(seat)

    def _workers(self) -> dict[Address, StageWorker]:
        actors = self.run.runtime.actors
        return {seat: actor for seat, actor in actors.items() if isinstance(actor, StageWorker)}

    def _notice(self, seat: Address) -> None:
        worker, heir = self._workers()[seat], None
        if self.rng.random() < 0.5:
            heir = Address(seat.stage, seat.replica + HEIR)
            self.run.runtime.actors[heir] = Heir(heir, seat, worker.life)
        self.noticed[seat] = worker.life
        self.happened["heir" if heir else "store"] += 1
        self.run.runtime.post(LEAD, Leaving(seat, worker.life, heir))

    def _end_of(self, seat: Address) -> None:
        """It goes when it may, or is killed when its state is safe."""
        worker, lead = self._workers()[seat], self.run.lead
        if worker.dismissed:
            self.happened["dismissed"] += 1
            return self._leave(seat)
        state = StateId(seat, worker.life, lead.progress.committed)
        attempt = worker._attempt
        said = attempt is not None and attempt.prepared
        if not self._safe(state) or said or lead.phase is Phase.COMMITTING:
            return
        if self.rng.random() < 0.1:
            self.run.runtime.post(LEAD, BreakOff(seat, worker.life))
        if self.rng.random() < 0.05:
            self.happened[f"killed while {lead.phase.value}"] += 1
            self._leave(seat)

    def _safe(self, state: StateId) -> bool:
        heir = self.run.runtime.actors.get(Address(state.seat.stage, state.seat.replica + HEIR))
        if isinstance(heir, Heir) and state.version in heir.has:
            return True
        store = self.run.store
        notes = (store.note(HANDOVER, shelf) for shelf in store.offered(HANDOVER))
        return any(state in states_of(note)[0] for note in notes)

    def _leave(self, seat: Address) -> None:
        """What its heir has by then, it comes with."""
        runtime = self.run.runtime
        del self.noticed[seat]
        life = runtime.kill(seat)
        heir = runtime.actors.get(Address(seat.stage, seat.replica + HEIR))
        brings, name = None, None
        if isinstance(heir, Heir):
            del runtime.actors[heir.address]  # it is to sit there itself
            if heir.has:
                ((version, brings),) = heir.has.items()
                name = StateId(seat, heir.life, version)
        self._joins(seat, life + 1, brings, name)

    def _joins(
        self, seat: Address, life: int, brings: StageState | None, name: StateId | None
    ) -> None:
        late = self.run.runtime.delivered + self.rng.choice((0, 5, 40, 10**9))
        self.later.append((late, seat, life, brings, name))

    def _cut(self, seat: Address) -> None:
        """It falls silent, and what it is sent is lost."""
        runtime = self.run.runtime
        worker = runtime.actors.pop(seat)
        assert isinstance(worker, StageWorker)
        runtime._pending = deque((to, m) for to, m in runtime._pending if to != seat)
        runtime.post(LEAD, Lost(seat, worker.life, silent=True))
        self.happened["cut off"] += 1
        self.cut.append((runtime.delivered + self.rng.choice((0, 3, 30, 300)), worker))

    def _catch_up(self, now: int) -> None:
        for entry in [entry for entry in self.later if entry[0] <= now]:
            self.later.remove(entry)
            _, seat, life, state, name = entry
            self._sit(seat, life, name, state)
        for at, worker in [entry for entry in self.cut if entry[0] <= now]:
            if worker.life >= self.run.lead.members.lives[worker.address]:
                continue  # the lead has not noticed yet
            self.cut.remove((at, worker))
            self._return(worker)

    def _return(self, worker: StageWorker) -> None:
        """With what it has, after the step that it was prepared for, if that was decided."""
        seat, standing = worker.address, worker.standing
        if standing.prepared is not None:
            state = StateId(seat, worker.life, standing.version)
            commit = self.run.lead.missed(state, standing.prepared)
            if commit is not None:
                self.happened["stepped late"] += 1
                worker.deliver(commit)
                while worker.advance() is not None:
                    pass
        exact = worker.exact()
        if exact is None:
            self.run.runtime.post(LEAD, Gone(seat, worker.life))
            return self._sit(seat, worker.life + 1, None, None)
        self.happened["back"] += 1
        self._sit(seat, worker.life + 1, *exact)

    def _sit(
        self, seat: Address, life: int, brings: StateId | None, state: StageState | None
    ) -> None:
        runtime = self.run.runtime
        worker = runtime._spawn(seat, life)
        assert isinstance(worker, StageWorker)
        if brings is not None and state is not None:
            worker.bring(brings, state)
        runtime.actors[seat] = worker
        runtime.post(LEAD, Joined(seat, life, brings))
        if brings is not None and self.rng.random() < 0.5:
            self.happened["leaves as it comes back"] += 1
            self.noticed[seat] = life
            runtime.post(LEAD, Leaving(seat, life, None))

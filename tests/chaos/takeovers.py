"""A lead that is killed between any two deliveries, and another that takes over."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from checkfree.core.config import RecoveryConfig
from checkfree.core.ops import FAULTS, LEAD, LOG, STORE, Address
from checkfree.core.records import dumps
from checkfree.lead import Lead, Takeover, history
from checkfree.messages.control import CHECKPOINT, RESUME, Leaving, Message, Rollcall
from checkfree.recovery.strategy import Strategy
from checkfree.recovery.wrappers import make_strategy
from checkfree.runtime.faults import Faults
from checkfree.runtime.recorded import RecordedFaults, RecordedRepairs, reroutes, script
from checkfree.runtime.store import Store
from checkfree.worker import StageWorker
from tests.chaos.chaos import any_ways
from tests.tiny import Run, make

IN_LEADER_PROCESS = (LEAD, LOG, STORE, FAULTS)
"""What lives in the lead's process, and dies with it."""

MICROBATCHES = 2

OF_LEAD = {"Begin", "Commit", "Abort", "Push", "Rebuild", "Rollcall"}
"""What only a lead says."""


@dataclass(frozen=True)
class Shape:
    """A small run, and what it loses: (tick, seat)."""

    recovery: str
    stages: int = 2
    replicas: int = 1
    losses: tuple[tuple[int, Address], ...] = ((1, Address(1)), (2, Address(0)))
    interval: int = 1
    iterations: int = 3
    shadow_every: int = 4
    shadow_format: str = "int4"

    def strategy(self) -> Strategy:
        own = {key: getattr(self, key) for key in ("interval", "shadow_every", "shadow_format")}
        return make_strategy(RecoveryConfig(self.recovery, **own, fit_steps=4, log_memory=0))

    def strikes(self, tick: int) -> list[Address]:
        return [seat for at, seat in self.losses if at == tick]

    def run(self, strategy: Strategy | None = None, **more: Any) -> Run:
        terms = {
            "iterations": self.iterations,
            "microbatches": MICROBATCHES,
            "validation_every": 2,
            "validate_after_repair": True,
            "resume_every": 2,
            "average_every": 3,
            "max_ticks": 30,
        }
        sizes = {"stages": self.stages, "replicas": self.replicas}
        strategy = strategy or self.strategy()
        return make(strategy, terms=terms, strikes=self.strikes, **sizes, **more)


def succeed(
    run: Run, life: int, *, sent: bool, faults: Any, seats: Collection[Address] = ()
) -> None:
    """The lead's process is lost, and these seats with it; another of that ``life`` takes over.
    ``sent``: what it had said by then arrives; else nothing of it."""
    runtime = run.runtime
    _drop(run, sent)
    for seat in seats:
        runtime.actors[seat] = runtime._spawn(seat, runtime.kill(seat) + 1)  # its replacement
    runtime._pending = deque(p for p in runtime._pending if p[0] != LEAD)
    run.store = runtime.actors[STORE] = Store(run.files)
    runtime.actors[FAULTS] = faults
    run.lead = runtime.actors[LEAD] = next_lead(run, life)
    runtime._exhaust(LEAD)


def _drop(run: Run, sent: bool) -> None:
    """Of what is under way: all to the lead's process, and what the lead has not sent yet."""
    runtime = run.runtime
    if sent:
        for to, message in runtime._pending:
            if to == LOG:
                runtime.actors[LOG].deliver(message)
    runtime._pending = deque(
        (to, message)
        for to, message in runtime._pending
        if to not in IN_LEADER_PROCESS and (sent or type(message).__name__ not in OF_LEAD)
    )


def next_lead(run: Run, life: int) -> Lead:
    """One that takes over what is written down and who is present."""
    old = run.lead._lead_state
    records = [json.loads(dumps(record)) for record in run.log.records]
    made = {
        version: run.store.note(CHECKPOINT, version)["progress"]["tick"]
        for version in run.store.offered(CHECKPOINT)
    }
    snapshots = {
        tick: run.store.note(RESUME, tick)["progress"]["committed"]
        for tick in run.store.offered(RESUME)
    }
    told = history(records, made, snapshots)
    present = {
        seat: actor.life
        for seat, actor in run.runtime.actors.items()
        if isinstance(actor, StageWorker)
    }
    takeover = Takeover(life, told, present)
    return Lead(takeover.members(), old.strategy, old.terms, told.progress, takeover)


@dataclass
class Mutiny:
    """Kills the lead after so many deliveries each time. ``sent``: what it had said by then
    arrives; else nothing of it. ``seats`` die with it, the first time."""

    shape: Shape
    kills: Sequence[int]
    sent: bool
    seats: Collection[Address] = ()
    lead_life: int = 0
    struck: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.run = self.shape.run()
        self.left = deque(self.kills)
        self.lives = dict.fromkeys(self.run.lead.members.alive, 0)
        self.run.runtime.actors[FAULTS] = self._faults()

    def play(self) -> Run:
        self.run.runtime.run(self._delivered)
        return self.run

    def replayed(self) -> Run:
        """From its plans, with one lead throughout."""
        plain = told(self.run)
        steps, ways = script(plain), reroutes(plain, MICROBATCHES)
        again = self.shape.run(
            strategy=RecordedRepairs(self.shape.strategy(), steps),
            faults=lambda host: RecordedFaults(host, steps, ways),
        )
        again.runtime.run(again.runtime.actors[FAULTS].watch)
        return again

    def _delivered(self, to: Address, message: Message) -> None:
        if self.left:
            self.left[0] -= 1
            if self.left[0] <= 0:
                self.left.popleft()
                self._kill()

    def _kill(self) -> None:
        if self.run.lead.done or self.run.lead.failure:
            return
        self.lead_life += 1
        succeed(self.run, self.lead_life, sent=self.sent, faults=self._faults(), seats=self.seats)
        self.seats = ()

    def _faults(self) -> Faults:
        faults = Faults(self.run.runtime, self.shape.strikes)
        faults._struck = self.struck  # whoever kills remembers
        return faults


@dataclass
class Wandering(Mutiny):
    """``turns``: the deliveries after which microbatches are to go other ways."""

    turns: Sequence[int] = ()

    def _delivered(self, to: Address, message: Message) -> None:
        runtime = self.run.runtime
        if runtime.delivered in self.turns:
            rng = random.Random(runtime.delivered)
            alive = self.run.lead.members.alive
            found = any_ways(rng, alive, self.shape.stages, MICROBATCHES)
            if found is not None:
                runtime.post(LEAD, found)
        super()._delivered(to, message)


@dataclass
class Quitting(Mutiny):
    """``asks``: of the delivery at which a seat asks to leave; it asks every new lead again, and
    another comes when it has left."""

    asks: tuple[int, Address] = (0, Address(0))
    dismissed: int = 0

    def _delivered(self, to: Address, message: Message) -> None:
        runtime, (at, seat) = self.run.runtime, self.asks
        worker = runtime.actors[seat]
        assert isinstance(worker, StageWorker)
        again = runtime.delivered > at and to == seat and isinstance(message, Rollcall)
        if worker.life == 0 and (runtime.delivered == at or again):
            runtime.post(LEAD, Leaving(seat, 0))
        if worker.dismissed:
            self.dismissed += 1
            runtime.join(seat, runtime.kill(seat) + 1)
        super()._delivered(to, message)


def told(run: Run) -> list[dict[str, Any]]:
    """Its records; but for epochs, which a change of lead advances."""
    plain = [json.loads(dumps(record)) for record in run.log.records]
    return [{k: v for k, v in record.items() if k != "epoch"} for record in plain]

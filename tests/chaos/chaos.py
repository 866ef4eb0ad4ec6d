"""Seeded chaos: kills at arbitrary deliveries, replacements that come late or never."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from checkfree.core.config import RecoveryConfig
from checkfree.core.ops import FAULTS, LEAD, Address
from checkfree.core.records import dumps
from checkfree.lead import Phase
from checkfree.messages.control import Message, Reroute
from checkfree.models.chunks import Chunks
from checkfree.pipeline import (
    Scheduler,
    gpipe,
    interleaved,
    one_f_one_b,
    v_half,
    v_min,
    zb_h1,
    zb_h2,
    zbv,
)
from checkfree.recovery.strategy import Strategy
from checkfree.recovery.wrappers import make_strategy
from checkfree.runtime.recorded import RecordedFaults, RecordedRepairs, reroutes, script
from checkfree.worker import StageWorker
from tests.tiny import Run, chunks_of, make

MICROBATCHES = 5

SHAPES: tuple[dict[str, Any], ...] = (
    {"recovery": "checkfree", "stages": 5, "replicas": 1},
    {"recovery": "checkfree_plus", "stages": 4, "replicas": 1},
    {"recovery": "checkfree_plus", "stages": 5, "replicas": 2},
    {"recovery": "redundant", "stages": 3, "replicas": 1},
    {"recovery": "redundant", "stages": 2, "replicas": 2},
    {"recovery": "checkpoint", "stages": 3, "replicas": 1},
    {"recovery": "checkpoint", "stages": 2, "replicas": 2},
    {"recovery": "random", "stages": 2, "replicas": 3},
)


WITH_COPIES = (gpipe, one_f_one_b, zb_h1, zb_h2)
"""That redundant forwards can stand in: each seat has one chunk."""
SCHEDULES = (*WITH_COPIES, interleaved, zbv, v_half, v_min)


@dataclass
class Plan:
    """One chaos run, all of it from one seed."""

    seed: int
    shape: dict[str, Any]
    kills: list[tuple[Phase | None, int]]
    """(phase to wait for, deliveries to let pass in it)"""
    terms: dict[str, Any] = field(default_factory=dict)
    """Other than usual."""

    @classmethod
    def of(cls, seed: int) -> Plan:
        rng = random.Random(seed)
        phases = (None, Phase.COMMITTING, Phase.REBUILDING, Phase.REBUILDING)
        kills: list[tuple[Phase | None, int]] = []
        for _ in range(rng.choice((1, 2, 2, 3))):
            phase = rng.choice(phases)
            kills.append((phase, rng.randrange(1, 120) if phase is None else rng.randrange(1, 9)))
        if kills[0][0] is Phase.REBUILDING:  # something must be lost before
            kills[0] = (None, rng.randrange(1, 120))
        return cls(seed, SHAPES[seed % len(SHAPES)], kills)

    def strategy(self) -> Strategy:
        return make_strategy(RecoveryConfig(name=self.shape["recovery"], interval=2))

    @property
    def schedule(self) -> Scheduler:
        among = WITH_COPIES if self.shape["recovery"] == "redundant" else SCHEDULES
        return among[self.seed // len(SHAPES) % len(among)]

    @property
    def chunks(self) -> Chunks:
        return chunks_of(self.schedule)

    def run(self, strategy: Strategy, **more: Any) -> Run:
        terms = {
            "iterations": 4,
            "microbatches": MICROBATCHES,
            "schedule": self.schedule,
            "validation_every": 2 * (self.seed % 3 == 0),
            "validate_after_repair": self.seed % 3 == 0,
            "max_ticks": 40,
            **self.terms,
        }
        sizes = {"stages": self.shape["stages"], "replicas": self.shape["replicas"]}
        return make(strategy, terms=terms, seed=self.seed, **sizes, **more)


@dataclass
class Chaos:
    """Kills as planned, while any pending message may be delivered next. ``wanders``: now and then
    microbatches are told to go other ways."""

    plan: Plan
    wanders: bool = False
    where: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rng, self.ways = random.Random(self.plan.seed + 1), random.Random(self.plan.seed + 2)
        self.run = self.plan.run(self.plan.strategy(), pick=self.rng.randrange)
        self.kills = list(self.plan.kills)
        self.absent: list[tuple[Address, int, int]] = []  # seat, life, delivery of its return

    def play(self) -> Run:
        runtime = self.run.runtime
        runtime.run(self._after_delivery)
        while self.absent and not (self.run.lead.done or self.run.lead.failure):
            self._return(self.absent.pop(0))
            runtime.run(self._after_delivery)
        return self.run

    def _after_delivery(self, to: Address, message: Message) -> None:
        due = [entry for entry in self.absent if entry[2] <= self.run.runtime.delivered]
        for entry in due:
            self.absent.remove(entry)
            self._return(entry)
        if self.wanders and self.plan.shape["replicas"] > 1 and self.ways.random() < 0.02:
            found = any_ways(
                self.ways, self.run.lead.members.alive, self.plan.shape["stages"], MICROBATCHES
            )
            if found is not None:
                self.run.runtime.post(LEAD, found)
        if not self.kills or self.run.lead.phase is Phase.ENDED:
            return
        phase, left = self.kills[0]
        if phase is None or self.run.lead.phase is phase:
            self.kills[0] = (phase, left - 1)
        if left <= 1:
            self.kills.pop(0)
            self._kill()

    def _kill(self) -> None:
        actors = self.run.runtime.actors
        seats = sorted(a for a, actor in actors.items() if isinstance(actor, StageWorker))
        seat = self.rng.choice(seats)
        self.where[self.run.lead.phase.value] += 1
        life = self.run.runtime.kill(seat)
        delay = self.rng.choice((0, 0, 5, 30, 400))
        self.absent.append((seat, life + 1, self.run.runtime.delivered + delay))

    def _return(self, entry: tuple[Address, int, int]) -> None:
        self.run.runtime.join(entry[0], entry[1])


def any_ways(
    rng: random.Random, alive: Collection[Address], stages: int, microbatches: int
) -> Reroute | None:
    """Through these seats, if they make up all stages."""
    by = {stage: sorted(s for s in alive if s.stage == stage) for stage in range(stages + 1)}
    if not all(by.values()):
        return None
    routes = []
    for _ in range(microbatches):
        route = [rng.choice(replicas) for replicas in by.values()]
        routes.append((*route, route[0]))
    return Reroute(tuple(sorted(alive)), tuple(routes))


def replay(plan: Plan, run: Run) -> Run:
    """The same run, first in first out, from the plans that it recorded."""
    plain = [json.loads(dumps(record)) for record in run.log.records]
    steps, ways = script(plain), reroutes(plain, MICROBATCHES)
    again = plan.run(
        RecordedRepairs(plan.strategy(), steps),
        faults=lambda host: RecordedFaults(host, steps, ways),
    )
    again.runtime.run(again.runtime.actors[FAULTS].watch)
    return again


def measured(run: Run) -> list[tuple[str, int, int, float]]:
    """All losses, of steps and validations, in their order."""
    found: list[Any] = [r for r in run.log.records if r.kind in ("iteration", "validation")]
    return [(record.kind, record.tick, record.iteration, record.loss) for record in found]

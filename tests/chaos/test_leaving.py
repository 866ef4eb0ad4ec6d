"""Workers that leave and others that come, at any moment, whatever is delivered next: no number
shows it, and the plans give the run again."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from checkfree.core.ops import Address
from checkfree.messages.control import Leaving, Message
from checkfree.worker import StageWorker
from tests.chaos.chaos import Plan, measured, replay
from tests.tiny import Run, same_states

SEEDS = range(24)


@dataclass
class Leavers:
    """``kills`` are deliveries at which somebody is killed besides."""

    plan: Plan
    kills: list[int] = field(default_factory=list)
    dismissed: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.plan.seed + 2)
        self.run = self.plan.run(self.plan.strategy(), pick=self.rng.randrange)
        self.asks = sorted(self.rng.randrange(1, 300) for _ in range(self.rng.randrange(1, 5)))
        self.absent: list[tuple[Address, int, int]] = []

    def play(self) -> Run:
        self.run.runtime.run(self._after_delivery)
        while self.absent and not (self.run.lead.done or self.run.lead.failure):
            seat, life, _ = self.absent.pop(0)
            self.run.runtime.join(seat, life)
            self.run.runtime.run(self._after_delivery)
        return self.run

    def _after_delivery(self, to: Address, message: Message) -> None:
        runtime = self.run.runtime
        now = runtime.delivered
        for entry in [entry for entry in self.absent if entry[2] <= now]:
            self.absent.remove(entry)
            runtime.join(entry[0], entry[1])
        workers = {a: w for a, w in runtime.actors.items() if isinstance(w, StageWorker)}
        for seat, worker in workers.items():
            if worker.dismissed:
                self.dismissed += 1
                self._gone(seat)
        if self.asks and self.asks[0] <= now and workers:
            self.asks.pop(0)
            seat = self.rng.choice(sorted(workers))
            life = workers[seat].life
            runtime.post(Address(-1), Leaving(seat, life))
        if self.kills and self.kills[0] <= now and workers.keys() & runtime.actors.keys():
            self.kills.pop(0)
            self._gone(self.rng.choice(sorted(workers.keys() & runtime.actors.keys())))

    def _gone(self, seat: Address) -> None:
        life = self.run.runtime.kill(seat)
        late = self.run.runtime.delivered + self.rng.choice((0, 5, 40, 10**9))
        self.absent.append((seat, life + 1, late))


def undisturbed(plan: Plan) -> Run:
    run = plan.run(plan.strategy())
    run.runtime.run()
    return run


@pytest.mark.parametrize("seed", SEEDS)
def test_who_leaves_takes_nothing_away(seed: int) -> None:
    plan = Plan.of(seed)
    leavers = Leavers(plan)
    run, plain = leavers.play(), undisturbed(plan)
    assert run.lead.done, run.lead.failure
    assert not run.of_kind("failure")
    if plan.shape["replicas"] == 1:
        assert measured(run) == measured(plain)
        assert same_states(run.states(), plain.states())
    again = replay(plan, run)
    assert again.lead.done
    assert measured(again) == measured(run)
    assert same_states(again.states(), run.states())


def test_they_do_leave() -> None:
    """Else the others would test nothing."""
    found = [Leavers(Plan.of(seed)) for seed in SEEDS]
    for leavers in found:
        leavers.play()
    assert sum(leavers.dismissed for leavers in found) > len(SEEDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_leaves_and_losses_at_once(seed: int) -> None:
    plan = Plan.of(seed)
    draw = random.Random(seed)
    run = Leavers(plan, sorted(draw.randrange(1, 300) for _ in range(2))).play()
    assert run.lead.done or run.lead.failure
    recorded = measured(run)
    assert measured(replay(plan, run))[: len(recorded)] == recorded

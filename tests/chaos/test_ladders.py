"""Seeded runs of shadow, fit and auto with kills anywhere: holders with owners, during a push and
during a rebuild. Each ends, and replays from its plans bit for bit."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from checkfree.core.config import RecoveryConfig
from checkfree.lead import Phase
from checkfree.recovery.strategy import Strategy
from checkfree.recovery.wrappers import make_strategy
from tests.chaos import SOAK
from tests.chaos.chaos import SCHEDULES, Chaos, Plan, measured, replay
from tests.tiny import Run, make, same_states

CHUNK, CHUNKS = 25, 40 if SOAK else 1

SHAPES: tuple[dict[str, Any], ...] = (
    {"recovery": "auto", "stages": 4, "replicas": 1},
    {"recovery": "shadow", "stages": 3, "replicas": 1, "shadow_format": "signs"},
    {"recovery": "fit", "stages": 4, "replicas": 1},
    {"recovery": "auto", "stages": 4, "replicas": 1, "swap": True, "shadow_every": "auto"},
    {"recovery": "auto", "stages": 2, "replicas": 2, "shadow_format": "signs"},
    {
        "recovery": "auto",
        "stages": 3,
        "replicas": 1,
        "net": 3,
        "fit_memory": 512,
        "shadow_format": "signs",
    },
)


@dataclass
class Ladders(Plan):
    """Longer runs, so that shadows are pushed more than once."""

    @classmethod
    def of(cls, seed: int) -> Ladders:
        rng = random.Random(seed)
        phases = (None, None, Phase.COMMITTING, Phase.REBUILDING)
        kills: list[tuple[Phase | None, int]] = [(None, rng.randrange(1, 900))]
        for _ in range(rng.choice((1, 2, 3, 4))):
            phase = rng.choice(phases)
            kills.append((phase, rng.randrange(1, 300) if phase is None else rng.randrange(1, 9)))
        return cls(seed, SHAPES[seed % len(SHAPES)], kills)

    def strategy(self) -> Strategy:
        names = ("swap", "fit_memory", "shadow_every", "shadow_format")
        more = {k: v for k, v in self.shape.items() if k in names}
        options = {"shadow_every": 4 + self.seed % 4, "fit_steps": 4, **more}
        return make_strategy(
            RecoveryConfig(self.shape["recovery"], log_memory=0, **options), self.shape.get("net")
        )

    def run(self, strategy: Strategy, **more: Any) -> Run:
        terms = {
            "iterations": 12,
            "microbatches": 4,
            "schedule": SCHEDULES[self.seed % 2 + 2 * (self.seed // len(SHAPES) % 4)],
            "validation_every": self.seed % 3,
            "validate_after_repair": self.seed % 3 > 0,
            "max_ticks": 60,
        }
        sizes = {"stages": self.shape["stages"], "replicas": self.shape["replicas"]}
        return make(strategy, terms=terms, seed=self.seed, **sizes, **more)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_run_ends_and_equals_its_replay(chunk: int) -> None:
    torch.set_num_threads(1)
    finished, rules = 0, Counter[str]()
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        chaos = Chaos(Ladders.of(seed))
        run = chaos.play()
        assert run.lead.done or run.lead.failure, f"seed {seed} stalls while {run.lead.phase}"
        again = replay(chaos.plan, run)
        assert measured(again)[: len(measured(run))] == measured(run), f"seed {seed}"
        for record in run.of_kind("recovery"):
            rules.update(made.recipe.rule for made in record.rebuilds.values())
        if run.lead.done:
            one, other = run.states(), again.states()
            both = one.keys() & other.keys()
            assert {name.split(".")[0] for name in both} == {name.split(".")[0] for name in one}
            assert same_states({s: one[s] for s in both}, {s: other[s] for s in both}), seed
            finished += 1
    assert finished >= 0.6 * CHUNK, finished
    assert rules["shadow"] > 5 and rules["fitted average"] > 5, rules

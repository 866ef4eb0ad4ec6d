"""Two that can't reach each other for a while, and then by another way: nobody is lost by it."""

from __future__ import annotations

import random
from collections import deque

import pytest
import torch

from checkfree.core.ops import LEAD, Address
from checkfree.messages.control import BoundaryRequest, Message, Severed, StateRequest
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
from checkfree.worker import StageWorker
from tests.chaos import SOAK
from tests.chaos.chaos import SHAPES, Plan, measured
from tests.chaos.test_leaving import undisturbed
from tests.chaos.test_notices import same
from tests.tiny import Run

RUNS = 1000 if SOAK else 32
PARTS = 4
BETWEEN = (
    *(Activation, BoundaryReply, BoundaryRequest, Gradient, KeepGradient, KeepShadow, KeepState),
    *(Share, StateReply, StateRequest),
)
"""What workers say to each other."""


class Cuts:
    """Of a run: what two are sent by any worker is lost from some delivery on, until the lead is
    told."""

    def __init__(self, plan: Plan):
        self.rng = random.Random(plan.seed + 7)
        self.run = plan.run(plan.strategy(), pick=self.rng.randrange)
        self.due = sorted(self.rng.randrange(1, 250) for _ in range(3))
        self.cut: tuple[Address, Address] | None = None
        self.until = self.lost = self.told = 0

    def play(self) -> Run:
        runtime = self.run.runtime
        runtime.run(self._after)
        while self.cut is not None:
            self._tell()
            runtime.run(self._after)
        return self.run

    def _after(self, to: Address, message: Message) -> None:
        runtime = self.run.runtime
        if self.cut is not None:
            self._lose(self.cut)
            if runtime.delivered >= self.until:
                self._tell()
        elif self.due and self.due[0] <= runtime.delivered:
            self.due.pop(0)
            seats = [s for s, actor in runtime.actors.items() if isinstance(actor, StageWorker)]
            one, other = self.rng.sample(sorted(seats), 2)
            self.cut, self.until = (one, other), runtime.delivered + self.rng.choice((1, 9, 60))
            self._lose(self.cut)

    def _lose(self, cut: tuple[Address, Address]) -> None:
        pending = self.run.runtime._pending
        kept = deque((to, m) for to, m in pending if to not in cut or not isinstance(m, BETWEEN))
        self.lost += len(pending) - len(kept)
        self.run.runtime._pending = kept

    def _tell(self) -> None:
        assert self.cut is not None
        self.run.runtime.post(LEAD, Severed(*self.cut))
        self.cut, self.told = None, self.told + 1


@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_lost(part: int) -> None:
    """Nobody is rebuilt, no iteration trained twice, and the numbers are the undisturbed ones."""
    torch.set_num_threads(1)
    lost = told = 0
    for seed in range(part, RUNS, PARTS):
        plan = Plan.of(seed)
        cuts = Cuts(plan)
        run, plain = cuts.play(), undisturbed(plan)
        assert run.lead.done, (seed, run.lead.phase, run.lead.failure)
        assert not run.of_kind("recovery"), seed
        assert not run.of_kind("failure"), seed
        iterations = [record.iteration for record in run.of_kind("iteration")]
        assert iterations == list(range(len(iterations))), seed
        assert measured(run) == measured(plain), seed
        assert same(plain, run), seed
        lost, told = lost + cuts.lost, told + cuts.told
    assert len(SHAPES) % PARTS == 0
    assert lost > 20
    assert told > 10

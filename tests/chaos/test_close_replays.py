"""Replays on other kinds of processors: what comes out is close, and is no damage to anybody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from checkfree.core.ops import Address
from checkfree.core.records import APART
from checkfree.messages.control import Rebuilt, Ticket
from checkfree.recovery.replay.rule import LogAndReplay
from checkfree.recovery.replay.terms import ReplayTerms
from checkfree.recovery.rungs import REPLAY
from checkfree.recovery.wrappers import ReplicaFirst
from checkfree.worker import StageWorker, replayable
from checkfree.worker.log import Sent, again
from tests.chaos import SOAK
from tests.chaos.replays import Losing, Terms
from tests.tiny import make


@pytest.mark.parametrize("which", [0, 1])
def test_replicas_that_step_to_other_bits(which: int) -> None:
    """The copy of the first of them is held against its own sum, whichever has the larger one."""
    torch.set_num_threads(1)
    lost = [Address(1, 0), Address(1, 1)]
    run = make(
        ReplicaFirst(LogAndReplay(ReplayTerms(1, every=2))),
        stages=2,
        replicas=2,
        terms={"iterations": 10},
        strikes=lambda tick: lost if tick == 7 else (),
    )
    worker = run.runtime.actors[Address(1, which)]
    assert isinstance(worker, StageWorker)
    step = worker.stage.step

    def otherwise(iteration: int, clip: float) -> None:
        step(iteration, clip)
        with torch.no_grad():
            worker.stage._params[0].add_(1e-6)

    worker.stage.step = otherwise  # type: ignore[method-assign]
    run.runtime.run()
    assert run.lead.done, run.lead.failure
    rules = [m.recipe.rule for r in run.of_kind("recovery") for m in r.rebuilds.values()]
    assert sorted(rules) == [REPLAY, "replica"]
    assert not any(m.rejected for r in run.of_kind("recovery") for m in r.rebuilds.values())


@pytest.fixture
def otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """What replays are sent is a millionth larger than it was."""

    def larger(sent: Sequence[Sent], to: Address, ticket: Ticket) -> list[Any]:
        found = again(sent, to, ticket)
        return [(to, replace(what, tensor=what.tensor * (1 + 1e-6))) for to, what in found]

    monkeypatch.setattr(replayable, "again", larger)
    torch.set_num_threads(1)


@pytest.mark.usefixtures("otherwise")
def test_a_wave_on_its_way_has_what_came_out() -> None:
    """Its sum is of what had been lost; when it counts, nobody holds its copy against that."""
    lost = {5: [Address(1)], 7: [Address(1)]}
    run = make(
        ReplicaFirst(LogAndReplay(ReplayTerms(2, every=4))),
        stages=3,
        terms={"iterations": 9},
        strikes=lambda tick: lost.get(tick, ()),
    )
    run.runtime.run()
    assert run.lead.done, run.lead.failure
    first, second = (made for r in run.of_kind("recovery") for made in r.rebuilds.values())
    assert first.check[APART] > 0 and second.check[APART] > 0
    assert not first.recipe.sources and second.recipe.sources[0].version == 4


class Closely(Losing):
    """In which replays compute otherwise."""

    def _compare(self, answer: Rebuilt) -> None:
        self.seen["close"] += APART in answer.check

    def check_end(self) -> None:
        run = self.run
        assert run.lead.done or "lost" in run.lead.failure, (self.terms, run.lead.phase)
        made = [m for r in run.of_kind("recovery") for m in r.rebuilds.values()]
        assert not [m.rejected for m in made if m.rejected], self.terms
        assert all(m.check.get(APART, 0.0) < 1e-3 for m in made), self.terms
        self.seen["done"] += run.lead.done


@pytest.mark.usefixtures("otherwise")
@pytest.mark.parametrize("replicas", [1, 2])
def test_close_replays_are_begun_with_good_copies(replicas: int) -> None:
    """Of waves on their way, too: these are of what was replayed, or of what was there before."""
    seen: Counter[str] = Counter()
    for seed in range(300 if SOAK else 10):
        terms = Terms.of(seed, replicas)
        machines = 0 if replicas == 1 else 2  # whole stages are lost with one
        kept = replace(terms.terms, tolerance=1e-3)
        losing = Closely(replace(terms, terms=kept, machines=machines))
        losing.play()
        losing.check_end()
        seen += losing.seen
    assert seen["close"] >= 10 and seen["done"] >= 3, seen

"""The table of the lead's phases is the whole truth: no other move happens, and each row does."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest
import torch

from checkfree.core.config import RecoveryConfig
from checkfree.core.ops import LEAD, Address, Recipe, Refusal, Repair, Source, View
from checkfree.lead import Lead, Phase
from checkfree.lead.phase import MOVES
from checkfree.messages.control import Message, Stop
from checkfree.messages.tensors import StageState
from checkfree.recovery.strategy import Fresh, Rebuilding, Strategy, repair_each
from checkfree.recovery.wrappers import make_strategy
from tests.chaos.chaos import Chaos, Plan
from tests.chaos.takeovers import Mutiny, Shape, next_lead
from tests.chaos.test_leaving import Leavers
from tests.tiny import make

Moves = set[tuple[Phase, Phase]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Moves]:
    """Every move that any lead makes meanwhile."""
    torch.set_num_threads(1)
    found: Moves = set()
    checked = Lead.phase

    def move(lead: Lead, to: Phase) -> None:
        found.add((lead.phase, to))
        assert checked.fset is not None
        checked.fset(lead, to)

    monkeypatch.setattr(Lead, "phase", checked.setter(move))
    yield found


def diverged() -> None:
    """A run with a loss that is no number."""
    run = make(make_strategy(RecoveryConfig("none")))
    with torch.no_grad():
        next(run.runtime.actors[Address(2)].stage.module.parameters()).fill_(float("nan"))
    run.runtime.run()
    assert "finite" in run.lead.failure


class Wrong(Strategy):
    """What it makes of a lost stage is not finite, and there is nothing else to make it of."""

    def repair(
        self, lost: frozenset[Address], view: View, refused: frozenset[Source]
    ) -> Repair | Refusal:
        return repair_each(lost, view, lambda stage: Recipe("wrong", (), moments=False))

    def rebuild(
        self, seat: Address, fresh: Fresh, states: Mapping[Source, StageState]
    ) -> Rebuilding:
        state = fresh()
        wrong = {name: torch.full_like(param, torch.inf) for name, param in state.params.items()}
        return Rebuilding(replace(state, params=wrong))


def beyond_repair() -> None:
    """A run with a stage that can't be rebuilt as its rule would have it."""
    run = make(Wrong(), strikes=lambda tick: [Address(2)] if tick == 1 else [])
    run.runtime.run()
    assert "could not be rebuilt" in run.lead.failure


def stopped(seed: int) -> None:
    """A run that is asked to end at some moment; also while another lead asks who is there."""
    draw = random.Random(seed)
    run = Plan.of(seed).run(Plan.of(seed).strategy(), pick=draw.randrange)
    at = draw.randrange(1, 200)

    def watch(to: Address, message: Message) -> None:
        if run.runtime.delivered == at:
            run.runtime.post(LEAD, Stop())

    run.runtime.run(watch)
    assert run.lead.phase is Phase.ENDED


def test_every_move_is_in_the_table_and_happens(seen: Moves) -> None:
    for seed in range(40):
        Chaos(Plan.of(seed)).play()
        Leavers(Plan.of(seed)).play()
        stopped(seed)
    shape = Shape("checkpoint")
    mutiny = Mutiny(shape, [20], sent=True)
    mutiny.play()
    interrupted = next_lead(mutiny.run, mutiny.lead_life)
    interrupted.deliver(Stop())
    assert interrupted.phase is Phase.ENDED and interrupted.stopped
    diverged()
    beyond_repair()
    moves = {(one, other) for one, other in seen if one is not other}
    assert moves <= MOVES.keys(), "a move that no row tells"
    assert MOVES.keys() <= moves, f"never seen: {MOVES.keys() - moves}"


def test_no_other_move_is_possible() -> None:
    lead = make(make_strategy(RecoveryConfig("none"))).lead
    with pytest.raises(AssertionError, match=r"IDLE to .*COMMITTING"):
        lead.phase = Phase.COMMITTING
    assert {phase for move in MOVES for phase in move} == set(Phase)

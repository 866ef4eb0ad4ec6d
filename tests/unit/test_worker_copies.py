"""Exact copies of stages: what is sent of them, and what becomes of one that comes back."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from checkfree.core.config import RecoveryConfig
from checkfree.core.ops import Address, Recipe, Source, Transfer
from checkfree.messages.control import WAVE, Again, Push, Rebuild, Rebuilt
from checkfree.messages.tensors import StageState, StateReply
from checkfree.recovery.rungs import REPLAY
from checkfree.recovery.wrappers import make_strategy
from checkfree.stage import Stage
from checkfree.worker import StageWorker
from checkfree.worker.log import SentLog
from checkfree.worker.replayable import Replayable
from tests import tiny
from tests.unit import states

SEAT, HOLDER = Address(2), Address(4)
COPY = Source(HOLDER, 2, 1)


def trained() -> Stage:
    stage = Stage(states.body(), states.conditions())
    states.train(stage, 0)
    return stage


def memory(state: StageState) -> list[int]:
    return [tensor.data_ptr() for _, tensor in state.tensors()]


@pytest.mark.parametrize("shares", [True, False])
def test_what_is_sent_outlives_who_sent_it(shares: bool) -> None:
    """As a copy, where the receiver is given this very memory; else it is not copied once more."""
    kept = Replayable(SEAT, 0, SentLog(), shares_memory=shares)
    own = trained().snapshot()
    kept.keep_own(own)
    order = Push(3, Transfer(SEAT, HOLDER, "state"), 1, WAVE)
    before = [tensor.clone() for _, tensor in own.tensors()]
    read = kept.read(Source(SEAT, SEAT.stage, 1))
    assert read is not None
    sent = [kept.push(order).state, read]
    assert [memory(state) == memory(own) for state in sent] == [not shares] * 2
    kept.destroy()
    for state in sent:
        assert all(map(torch.equal, [tensor for _, tensor in state.tensors()], before))
    assert kept.read(Source(SEAT, SEAT.stage, 1)) is None


def replayed(
    state: StageState, copied: int | None, version: int = 1
) -> tuple[Rebuilt, StageWorker]:
    """A seat's answer when it is to begin with that copy, of which there is a sum."""
    context = tiny.worker_context(0, make_strategy(RecoveryConfig("replay")))
    worker = StageWorker(SEAT, 1, context, uninitialized=True)
    again = Again(version, (), (), (), clones=(version,), copied=copied, digest=copied)
    worker.deliver(Rebuild(7, 1, Recipe(REPLAY, (COPY,), moments=True), 5, version, again))
    worker.deliver(StateReply(7, COPY, state))
    said = [message for out in iter(worker.advance, None) for _, message in out]
    (answer,) = (message for message in said if isinstance(message, Rebuilt))
    return answer, worker


def test_a_copy_that_came_is_kept_as_the_seats_own() -> None:
    stage = trained()
    state = stage.snapshot()
    answer, worker = replayed(state, stage.digest())
    assert not answer.problem and not answer.check
    own = worker.replayable._own[1]
    assert states.same(own, stage.snapshot()) and memory(own) == memory(state)
    assert states.same(worker.stage.snapshot(), stage.snapshot())
    assert not {*memory(own)} & {p.data_ptr() for p in worker.stage.params.values()}


def test_one_that_lacks_what_the_stage_has_is_not() -> None:
    stage = trained()
    state = stage.snapshot()
    other = torch.nn.Linear(4, 4)
    assert stage.is_whole(state)
    assert not stage.is_whole(replace(state, params={}))
    assert not stage.is_whole(replace(state, buffers={"more": other.weight}))


def spoiled(tensor: Tensor) -> Tensor:
    changed = tensor.clone()
    changed.view(-1)[0] += 1
    return changed


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (spoiled, "is not what was copied"),
        (lambda tensor: tensor * torch.nan, "is not what was copied"),
        (lambda tensor: tensor[:2], r"is float32\[2\], expected float32\[4\]"),
        (lambda tensor: tensor.double(), r"is float64\[4\], expected float32\[4\]"),
    ],
)
@pytest.mark.parametrize("where", ["params", "moments"])
def test_a_damaged_copy_is_refused_and_named(
    where: str, change: Callable[[Tensor], Tensor], why: str
) -> None:
    """Its sum tells, where its shape does not."""
    stage = trained()
    state = stage.snapshot()
    group = dict(getattr(state, where))
    key = next(key for key in group if key.startswith("inner.bias") and group[key].ndim)
    group[key] = change(group[key])
    answer, worker = replayed(replace(state, **{where: group}), stage.digest())
    assert answer.bad == (COPY,) and not worker.replayable._own
    of_no_parameter = where == "moments" and "is of no parameter" in answer.problem
    assert re.search(why, answer.problem) or of_no_parameter


def test_numbers_that_a_sum_vouches_for_may_be_any() -> None:
    """A run that diverges comes back as it was; without a sum it is a stranger's mistake."""
    stage = trained()
    with torch.no_grad():
        stage.params["inner.bias"].fill_(torch.nan)
    answer, worker = replayed(stage.snapshot(), stage.digest())
    assert not answer.problem
    assert worker.stage.digest() == stage.digest()
    answer, _ = replayed(stage.snapshot(), None)
    assert answer.bad == (COPY,) and "inner.bias is not finite" in answer.problem

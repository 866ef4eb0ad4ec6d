"""A neighbour's state is looked at before it is used, and whoever sent a bad one is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from checkfree.core.config import RecoveryConfig
from checkfree.core.ops import Address, Recipe, Source
from checkfree.messages.control import Rebuild, Rebuilt, StateRequest
from checkfree.messages.tensors import StageState, StateReply
from checkfree.recovery.wrappers import make_strategy
from checkfree.stage import Stage
from checkfree.worker import StageWorker
from checkfree.worker.inspection import MOST_RMS, all_finite, problem_of
from tests import tiny
from tests.unit import states

NAMES = ["inner.weight", "inner.bias"]
BAD = {
    "one NaN": (lambda p: p.index_put((torch.tensor(0),), torch.tensor(torch.nan)), "not finite"),
    "one inf": (lambda p: p.index_put((torch.tensor(0),), torch.tensor(torch.inf)), "not finite"),
    "absurd": (lambda p: p + 2 * MOST_RMS, "root mean square"),
    "beyond squares": (lambda p: p * 0 + 3e38, "root mean square"),
    "another shape": (lambda p: p[:2], r"float32\[2\], expected float32\[4\]"),
    "another dtype": (lambda p: p.double(), r"float64\[4\], expected float32\[4\]"),
}


def trained() -> Stage:
    stage = Stage(states.body(), states.conditions())
    states.train(stage, 0)
    return stage


def changed(state: StageState, change: Callable[[Tensor], Tensor]) -> StageState:
    return replace(state, params={**state.params, "inner.bias": change(state.params["inner.bias"])})


def test_what_training_makes_is_fine() -> None:
    stage = trained()
    for moments in (True, False):
        assert problem_of(stage.snapshot(moments=moments), stage) == ""


@pytest.mark.parametrize("name", BAD)
def test_a_bad_parameter_is_named(name: str) -> None:
    change, why = BAD[name]
    stage = trained()
    found = problem_of(changed(stage.snapshot(), change), stage)
    assert found.startswith("inner.bias") and "\n" not in found
    assert re.search(why, found)


def test_names_are_those_of_the_stage() -> None:
    stage = trained()
    state = stage.snapshot()
    less = replace(state, params={NAMES[0]: state.params[NAMES[0]]})
    more = replace(state, params={**state.params, "outer": torch.zeros(1)})
    other = replace(state, buffers={"mask": torch.zeros(1)})
    assert problem_of(less, stage) == "inner.bias is absent"
    assert problem_of(more, stage) == "outer is unknown"
    assert problem_of(other, stage) == "mask is unknown"


def test_moments_are_looked_at_too() -> None:
    stage = trained()
    state = stage.snapshot()
    key = "inner.bias/exp_avg"
    bad = {**state.moments, key: state.moments[key] + torch.nan}
    assert problem_of(replace(state, moments=bad), stage) == f"{key} is not finite"
    odd = {**state.moments, key: torch.zeros(2)}
    assert key in problem_of(replace(state, moments=odd), stage)


def test_the_lead_hears_who_sent_it_and_nothing_is_taken() -> None:
    """One good neighbour, one that went mad."""
    made = tiny.worker_context(0, make_strategy(RecoveryConfig("checkfree")))
    worker = StageWorker(Address(2), 1, made, uninitialized=True)
    sources = Source(Address(1), 1, 5), Source(Address(3), 3, 5)
    before = worker.stage.snapshot()
    worker.deliver(Rebuild(7, 1, Recipe("weighted average", sources), 5, 5))
    asked = worker.advance()
    assert asked is not None and [type(message) for _, message in asked] == [StateRequest] * 2
    good = replace(made.make(1, 1).snapshot(), version=5, gradient_norm=1.0)
    mad = replace(good, params={n: p * 1e9 for n, p in good.params.items()})
    for source, state in zip(sources, (good, mad), strict=True):
        worker.deliver(StateReply(7, source, state))
    answers = [answer for out in iter(worker.advance, None) for _, answer in out]
    (answer,) = answers
    assert isinstance(answer, Rebuilt)
    assert answer.bad == (sources[1],)
    assert answer.problem.startswith("the state from 3.0@5: inner.weight has a root mean square")
    assert states.same(worker.stage.snapshot(), before)


def test_numbers_whose_squares_are_infinite_are_finite() -> None:
    assert all_finite(torch.full((4,), 3e38))
    assert all_finite(torch.arange(3))
    assert not all_finite(torch.tensor([1.0, torch.nan]))
    assert not all_finite(torch.tensor([1.0, -torch.inf], dtype=torch.float16))

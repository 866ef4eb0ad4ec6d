"""What a stage carries from one life to the next, and what it takes with it when it is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from checkfree.core.config import OptimizerConfig
from checkfree.messages.tensors import StageState
from checkfree.stage import Conditions, Part, Stage
from checkfree.stage.optimizer import make_optimizer
from tests.tiny import WIDTH
from tests.unit.states import body, conditions, same, tensor, train


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def trained(seed: int = 0) -> Stage:
    stage = Stage(body(seed=seed), conditions())
    for iteration in range(3):
        train(stage, iteration, clip=0.5)
    return stage


def test_a_restored_stage_goes_on_bit_for_bit() -> None:
    one, other = trained(), trained(seed=9)
    one.restore(replace(one.snapshot(), lr_scale=1.25))
    other.restore(one.snapshot())
    assert same(one.snapshot(), other.snapshot())
    assert {key.split("/")[1] for key in other.snapshot().moments} == {
        "step",
        "exp_avg",
        "exp_avg_sq",
    }
    for iteration in range(3, 6):
        train(one, iteration)
        train(other, iteration)
    assert same(one.snapshot(), other.snapshot())


def test_a_restored_stage_goes_on_bit_for_bit_under_muon() -> None:
    """Of two optimizers in one, each has its own moments again."""
    config = OptimizerConfig("muon", lr=0.1)
    told = Conditions(partial(make_optimizer, config), lambda i: 0.1, coarse_steps=True)
    one, other = (Stage(body(seed=seed), told) for seed in (0, 9))
    for iteration in range(3):
        train(one, iteration)
    train(other, 0)
    other.restore(one.snapshot())
    assert {*other.snapshot().moments} == {
        "inner.weight/momentum_buffer",
        *(f"inner.bias/{moment}" for moment in ("step", "exp_avg", "exp_avg_sq")),
    }
    for iteration in range(3, 6):
        train(one, iteration)
        train(other, iteration)
    assert same(one.snapshot(), other.snapshot()) and one.digest() == other.digest()
    other.destroy()
    lost = other.snapshot()
    assert all(bool(m.isnan().all()) for m in lost.moments.values() if m.ndim)
    assert (one.tolerance, trained().tolerance) == (1e-2, 1e-4)


def test_moments_are_part_of_what_goes_on() -> None:
    """The check above would see moments that were left behind."""
    one, other = trained(), trained(seed=9)
    other.restore(replace(one.snapshot(), moments={}))
    assert other.snapshot().moments == {}
    train(one, 3)
    train(other, 3)
    assert not torch.equal(
        one.snapshot().params["inner.weight"], other.snapshot().params["inner.weight"]
    )


def test_a_snapshot_shares_no_memory_in_either_direction() -> None:
    stage, other = trained(), trained(seed=9)
    state = stage.snapshot()
    copy = {name: value.clone() for name, value in state.tensors()}
    other.restore(state)
    train(stage, 3)
    train(other, 3)
    stage.destroy()
    other.destroy()
    assert all(torch.equal(copy[name], value) for name, value in state.tensors())


class Tables(nn.Module):
    """One buffer that is saved, and one that is computed anew."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("saved", torch.ones(WIDTH))
        self.register_buffer("computed", torch.ones(WIDTH), persistent=False)


def test_buffers_belong_to_the_state_if_they_persist() -> None:
    stage = Stage(Tables(), conditions())
    state = stage.snapshot()
    assert state.buffers.keys() == {"saved"}
    stage.restore(replace(state, buffers={"saved": torch.full((WIDTH,), 7.0)}))
    assert stage.module.saved.tolist() == [7.0] * WIDTH


def without(mapping: Any, key: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name != key}


WEIGHT, ODD = "inner.weight", torch.zeros(WIDTH + 1)
UNFIT: dict[str, Callable[[StageState], StageState]] = {
    "another shape": lambda s: replace(s, params={**s.params, WEIGHT: ODD}),
    "a parameter less": lambda s: replace(s, params=without(s.params, WEIGHT)),
    "a parameter more": lambda s: replace(s, params={**s.params, "other": ODD}),
    "a strange moment": lambda s: replace(s, moments={"other/exp_avg": ODD}),
    "another buffer": lambda s: replace(s, buffers={"other": ODD}),
    "a buffer of another shape": lambda s: replace(s, buffers={"saved": ODD}),
    "a moment without a name": lambda s: replace(s, moments={WEIGHT: ODD}),
    "a moment of another shape": lambda s: replace(s, moments={f"{WEIGHT}/exp_avg": ODD}),
}


@pytest.mark.parametrize("unfit", UNFIT.values(), ids=UNFIT)
def test_a_state_that_does_not_fit_changes_nothing(unfit: Callable[..., StageState]) -> None:
    stage = Stage(Tables(), conditions())
    stage.set_gradients({WEIGHT: torch.ones(WIDTH, WIDTH)})
    stage.step(0, 1.0)
    before = stage.snapshot()
    changed = {n: p + 1 for n, p in before.params.items()}
    with pytest.raises(ValueError, match="the state does not fit the stage"):
        stage.restore(unfit(replace(before, params=changed, version=9)))
    assert same(stage.snapshot(), before)


def test_what_is_destroyed_is_gone_in_place() -> None:
    stage = trained()
    stage.forward((0, 1), Part.BODY, tensor(0), None, seed=0)
    stage.backward((0, 1), tensor(1))
    params, grads = list(stage.module.parameters()), list(stage.gradients().values())
    stage.destroy()
    found = [*params, *grads, *(value for _, value in stage.snapshot().tensors())]
    assert len(found) == 2 + 2 + 2 + 6
    assert all(value.isnan().all() for value in found)

"""A neighbour's state is looked at before it is used, and whoever sent a bad one is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from checkfree.core.config import RecoveryConfig
from checkfree.core.ops import Address, Recipe, Source
from checkfree.messages.control import Rebuild, Rebuilt, StateRequest
from checkfree.messages.tensors import StageState, StateReply
from checkfree.recovery.shadow.format import pack_state
from checkfree.recovery.wrappers import make_strategy
from checkfree.stage import Stage
from checkfree.worker import StageWorker
from checkfree.worker.inspection import MOST_RMS, all_finite, problem_of, problems_of
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


def test_a_good_state_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each weight for one norm, and the stage's own not at all: reading is a part of a rebuild."""
    stage, read = trained(), list[int]()
    norm = torch.linalg.vector_norm

    def counted(tensor: Tensor, **how: object) -> Tensor:
        read.append(tensor.numel())
        return norm(tensor, **how)

    monkeypatch.setattr(torch.linalg, "vector_norm", counted)
    state = stage.snapshot(moments=False)
    assert problem_of(state, stage) == ""
    assert sum(read) == sum(
        tensor.numel() for tensor in (*state.params.values(), *state.buffers.values())
    )


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


def test_large_numbers_are_a_strangers_mistake_or_what_has_trained() -> None:
    stage = trained()
    large = changed(stage.snapshot(), lambda bias: bias + 2 * MOST_RMS)
    assert "expected at most 1e+06" in problem_of(large, stage)
    assert problem_of(large, stage, strangers=False) == ""


def test_what_began_large_may_be_large() -> None:
    stage = trained()
    with torch.no_grad():
        stage.module.inner.bias.fill_(5e3)
    state = stage.snapshot()
    assert problem_of(state, stage) == ""
    assert problem_of(changed(state, lambda bias: bias * 1e5), stage) == ""
    assert "expected at most 5e+09" in problem_of(changed(state, lambda bias: bias * 1e7), stage)


class Masked(tiny.Body):
    """With constants that are infinite, or no floating point numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.tensor([0.0, -torch.inf]), requires_grad=False)
        self.codes = nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)
        self.small = nn.Parameter(torch.ones(2).to(torch.float8_e4m3fn), requires_grad=False)
        self.register_buffer("kept", torch.tensor([-torch.inf, 0.0]))
        self.register_buffer("seen", torch.tensor([True, False]))


def test_constants_may_be_infinite_where_they_were() -> None:
    stage = Stage(Masked(), states.conditions())
    state = stage.snapshot()
    assert problem_of(state, stage) == ""
    for group, name in (("params", "mask"), ("buffers", "kept"), ("params", "small")):
        tensors = dict(getattr(state, group))
        tensors[name] = torch.full_like(tensors[name].float(), torch.nan).to(tensors[name].dtype)
        found = problem_of(replace(state, **{group: tensors}), stage)
        assert found == f"{name} is not finite where the stage's own is"
    missing = {name: state.params[name] for name in NAMES}
    assert problem_of(replace(state, params=missing), stage) == ""


def test_a_moment_may_be_infinite_and_is_of_its_parameters_type() -> None:
    stage = trained()
    state = stage.snapshot()
    key = "inner.bias/exp_avg_sq"
    over = {**state.moments, key: state.moments[key] + torch.inf}
    assert problem_of(replace(state, moments=over), stage) == ""
    wide = {**state.moments, key: state.moments[key].double()}
    assert f"the moment {key} float64[4]" in problem_of(replace(state, moments=wide), stage)


def test_what_cannot_be_unpacked_says_why() -> None:
    stage, source = trained(), Source(Address(3), 2, 5)
    packed = pack_state(stage.snapshot(), "int8_rows")
    spoilt = {name: part[:1] if "codes" in name else part for name, part in packed.params.items()}
    (found,) = problems_of({source: replace(packed, params=spoilt)}, stage, 2).values()
    assert found.startswith("the state from 3.0:2@5: it can't be unpacked: codes")
    assert not problems_of({source: packed}, stage, 2)


def test_numbers_whose_squares_are_infinite_are_finite() -> None:
    assert all_finite(torch.full((4,), 3e38))
    assert all_finite(torch.arange(3))
    assert not all_finite(torch.tensor([1.0, torch.nan]))
    assert not all_finite(torch.tensor([1.0, -torch.inf], dtype=torch.float16))

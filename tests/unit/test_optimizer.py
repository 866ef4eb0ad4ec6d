"""Learning-rate schedules by their numbers, optimizers against torch, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from checkfree.core.config import OptimizerConfig
from checkfree.core.errors import BadInput
from checkfree.core.rates import LR_SCHEDULES, OPTIMIZERS, check_optimizer, lr_at, momentum_of
from checkfree.stage.optimizer import for_muon, make_optimizer

UNIT = OptimizerConfig(lr=1.0)


def rates(config: OptimizerConfig, iterations: int) -> list[float]:
    return [lr_at(config, iteration, iterations) for iteration in range(iterations)]


def test_constant_is_the_default() -> None:
    assert rates(OptimizerConfig(), 3) == [2e-3] * 3


@pytest.mark.parametrize("schedule", LR_SCHEDULES)
def test_every_schedule_warms_up_in_a_line(schedule: str) -> None:
    config = replace(UNIT, schedule=schedule, warmup=4, lr=8.0)
    assert rates(config, 100)[:5] == [2.0, 4.0, 6.0, 8.0, 8.0]


def test_cosine_falls_from_the_peak_to_the_floor() -> None:
    config = replace(UNIT, schedule="cosine", warmup=1)
    assert rates(config, 5) == pytest.approx([1.0, 1.0, 0.8535534, 0.5, 0.1464466])
    floored = replace(config, min_lr=0.2)
    assert rates(floored, 5) == pytest.approx([1.0, 1.0, 0.8828427, 0.6, 0.3171573])
    assert lr_at(floored, 5, 5) == pytest.approx(0.2)


def test_wsd_is_stable_and_decays_over_the_last_fifth() -> None:
    config = replace(UNIT, schedule="wsd")
    assert rates(config, 20) == [1.0] * 17 + [0.75, 0.5, 0.25]
    assert rates(replace(config, min_lr=0.5), 20)[-3:] == [0.875, 0.75, 0.625]


def test_wsd_decays_as_long_as_it_is_told() -> None:
    config = replace(UNIT, schedule="wsd", warmup=2, decay=2)
    assert rates(config, 6) == [0.5, 1.0, 1.0, 1.0, 1.0, 0.5]
    assert rates(replace(config, warmup=0, decay=0), 3) == [1.0] * 3


@given(
    st.sampled_from(LR_SCHEDULES),
    st.integers(0, 40),
    st.none() | st.integers(0, 40),
    st.floats(0, 1),
    st.integers(1, 50),
)
def test_a_rate_stays_between_nothing_and_the_peak(
    schedule: str, warmup: int, decay: int | None, floor: float, iterations: int
) -> None:
    config = replace(UNIT, schedule=schedule, warmup=warmup, decay=decay, min_lr=floor)
    found = rates(config, iterations)
    assert all(0 < rate <= 1.0 + 1e-12 for rate in found[:-1])
    after = found[warmup:]
    assert all(one >= other - 1e-12 for one, other in pairwise(after))
    assert all(rate >= floor - 1e-12 for rate in after)


@pytest.mark.parametrize(
    ("name", "theirs"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_optimizers_step_as_torchs_own(name: str, theirs: type[torch.optim.Adam]) -> None:
    config = OptimizerConfig(name=name, lr=0.1, betas=(0.5, 0.9), eps=1e-4, weight_decay=0.2)
    ours, plain = (nn.Parameter(torch.tensor([1.0, -2.0, 3.0])) for _ in range(2))
    optimizers = (
        make_optimizer(config, [ours]),
        theirs([plain], lr=0.1, betas=(0.5, 0.9), eps=1e-4, weight_decay=0.2, foreach=False),
    )
    for step in range(1, 4):
        for param in (ours, plain):
            param.grad = torch.tensor([0.3, -0.1, 0.7]) * step
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, plain)


def test_sgd_steps_as_torchs_own() -> None:
    config = OptimizerConfig(name="sgd", lr=0.1, momentum=0.7, weight_decay=0.2)
    ours, plain = (nn.Parameter(torch.tensor([1.0, -2.0, 3.0])) for _ in range(2))
    theirs = torch.optim.SGD([plain], lr=0.1, momentum=0.7, weight_decay=0.2, foreach=False)
    optimizers = (make_optimizer(config, [ours]), theirs)
    for step in range(1, 4):
        for param in (ours, plain):
            param.grad = torch.tensor([0.3, -0.1, 0.7]) * step
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, plain)


class Mixed(nn.Module):
    """A parameter of every sort that a body may have."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Parameter(torch.randn(3, 5))
        self.bias = nn.Parameter(torch.randn(5))
        self.experts = nn.Parameter(torch.randn(2, 3, 4))
        self.tall = nn.Parameter(torch.randn(6, 2))
        self.turn = nn.Parameter(torch.randn(2, 2, dtype=torch.complex64))
        self.frozen = nn.Parameter(torch.randn(2, 2), requires_grad=False)
        self.table = nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)


MATRICES = ("wide", "tall")


def mixed() -> Mixed:
    torch.manual_seed(0)
    return Mixed()


def give_gradients(module: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for param in module.parameters():
        if param.requires_grad:
            param.grad = torch.randn(param.shape, generator=generator, dtype=param.dtype)


@pytest.mark.parametrize("momentum", [None, 0.8])
def test_muon_steps_matrices_and_adamw_the_rest(momentum: float | None) -> None:
    """To the bit as torch's two, side by side; also after a change of the learning rate."""
    config = OptimizerConfig("muon", 0.1, (0.5, 0.9), 1e-4, momentum, weight_decay=0.2)
    ours, plain = mixed(), mixed()
    how: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.2}
    named = dict(plain.named_parameters())
    theirs = [
        torch.optim.Muon(
            [named.pop(name) for name in MATRICES],
            momentum=momentum or 0.95,
            adjust_lr_fn="match_rms_adamw",
            **how,
        ),
        torch.optim.AdamW(named.values(), betas=(0.5, 0.9), eps=1e-4, **how),
    ]
    optimizers = [make_optimizer(config, ours.parameters()), *theirs]
    for step in range(4):
        for module in (ours, plain):
            give_gradients(module, step)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 0.1 / (1 + step)
            optimizer.step()
    for (name, one), other in zip(ours.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other), name
    remembered = {name: {*optimizers[0].state[p]} for name, p in ours.named_parameters()}
    assert {name for name in remembered if remembered[name] == {"momentum_buffer"}} == {*MATRICES}
    optimizers[0].zero_grad()
    assert all(param.grad is None for param in ours.parameters())


def test_muon_leaves_stage_0_to_adamw() -> None:
    one, other = mixed(), mixed()
    optimizers = (
        make_optimizer(OptimizerConfig("muon", 0.1), one.parameters(), edge=True),
        make_optimizer(OptimizerConfig("adamw", 0.1), other.parameters()),
    )
    for module, optimizer in zip((one, other), optimizers, strict=True):
        give_gradients(module, 0)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("shape", [(3, 4), (4,)])
def test_muon_takes_a_body_of_one_sort(shape: tuple[int, ...]) -> None:
    param = nn.Parameter(torch.ones(shape))
    param.grad = torch.randn(shape)
    optimizer = make_optimizer(OptimizerConfig("muon"), [param])
    optimizer.step()
    assert not torch.equal(param, torch.ones(shape))


def test_muons_steps_are_as_large_as_adamws() -> None:
    """So that one rate serves both: the root mean square of a first step, over the rate."""
    for shape in ((64, 64), (64, 256), (300, 40)):
        param = nn.Parameter(torch.zeros(shape))
        param.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        make_optimizer(OptimizerConfig("muon", lr=1.0), [param]).step()
        assert 0.1 < param.square().mean().sqrt().item() < 0.3, shape


def test_a_torch_without_muon_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(BadInput, match=r"optimizer.name=muon needs torch 2.9 or later") as refused:
        make_optimizer(OptimizerConfig("muon"), [nn.Parameter(torch.ones(2, 2))])
    assert "\n" not in str(refused.value)


def test_the_usual_momentum_is_that_of_the_optimizer() -> None:
    found = {name: momentum_of(OptimizerConfig(name)) for name in OPTIMIZERS}
    assert found == {"adam": 0.0, "adamw": 0.0, "sgd": 0.9, "muon": 0.95}
    assert momentum_of(OptimizerConfig("muon", momentum=0.0)) == 0.0


def test_weight_decay_tells_adam_and_adamw_apart() -> None:
    moved = {}
    for name in ("adam", "adamw"):
        param = nn.Parameter(torch.tensor([4.0]))
        param.grad = torch.tensor([0.0])
        make_optimizer(OptimizerConfig(name=name, lr=0.1, weight_decay=0.5), [param]).step()
        moved[name] = param.item()
    assert moved == pytest.approx({"adam": 3.9, "adamw": 3.8})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "lion"}, "optimizer.name=lion: expected one of adam, adamw, sgd, muon"),
        ({"momentum": 1.0}, r"optimizer.momentum=1.0: expected a number in \[0.0, 0.99"),
        ({"schedule": "linear"}, "optimizer.schedule=linear: expected one of constant, cosine"),
        ({"clip_over": "all"}, "optimizer.clip_over=all: expected one of stage, global"),
        ({"lr": -1e-3}, r"optimizer.lr=-0.001: expected a number in \[0.0, inf\]"),
        ({"lr": float("nan")}, "optimizer.lr=nan"),
        ({"lr": float("inf")}, "optimizer.lr=inf"),
        ({"eps": -1.0}, "optimizer.eps=-1.0"),
        ({"weight_decay": -0.1}, "optimizer.weight_decay=-0.1"),
        ({"min_lr": 1.1}, r"optimizer.min_lr=1.1: expected a number in \[0.0, 1.0\]"),
        ({"warmup": -1}, "optimizer.warmup=-1"),
        ({"decay": -1}, "optimizer.decay=-1"),
        ({"clip": -1.0}, "optimizer.clip=-1.0"),
        ({"clip": 0.0}, "optimizer.clip=0 would stop all training: give a norm, or null"),
        ({"betas": (1.0, 0.9)}, r"optimizer.betas\[0\]=1.0"),
        ({"betas": (0.9, -0.1)}, r"optimizer.betas\[1\]=-0.1"),
    ],
)
def test_values_that_no_optimizer_takes_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message) as refused:
        check_optimizer(replace(OptimizerConfig(), **change))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("change", [{}, {"clip": None}, {"lr": 0.0}, {"decay": 0}, {"min_lr": 1.0}])
def test_odd_but_fine_values_are_taken(change: dict[str, Any]) -> None:
    check_optimizer(replace(OptimizerConfig(), **change))


@pytest.mark.parametrize(
    ("name", "shape", "is_one"),
    [
        ("layers.0.weight", (3, 4), True),
        ("gate_up_proj", (2, 3, 4), False),
        ("experts.gate_up_proj_bias", (3, 4), False),
        ("mixer.A_log", (3, 4), False),
        ("norm.weight", (4,), False),
    ],
)
def test_muon_has_what_is_a_matrix(name: str, shape: tuple[int, ...], is_one: bool) -> None:
    assert for_muon(name, nn.Parameter(torch.ones(shape))) is is_one
    assert not for_muon(name, nn.Parameter(torch.ones(shape), requires_grad=False))

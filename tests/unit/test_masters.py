"""Weights in bf16 that are rounded from fp32 ones which train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from checkfree.core.ops import Recipe
from checkfree.recovery.fit.local_steps import fit_and_judge
from checkfree.stage import Conditions, Part, Stage
from tests.tiny import WIDTH, Edge
from tests.unit import states
from tests.unit.states import body, conditions, same

BF16 = torch.bfloat16


def stage(lr: float = 0.1, module: nn.Module | None = None) -> Stage:
    torch.set_num_threads(1)
    return Stage(body() if module is None else module, conditions(lr, weights=BF16))


def tensor(seed: int) -> Tensor:
    return states.tensor(seed).to(BF16)


def train(stage: Stage, iteration: int) -> None:
    for m in range(2):
        stage.forward((m, 1), Part.BODY, tensor(10 * iteration + m), None, seed=m)
        stage.backward((m, 1), tensor(10 * iteration + m + 5))
    stage.reduced()
    stage.step(iteration, 1.0)


def assert_rounded(made: Stage) -> None:
    """What computes is what the masters are, rounded."""
    computing = dict(made.module.named_parameters())
    assert computing.keys() == made.params.keys()
    for name, master in made.params.items():
        assert (master.dtype, computing[name].dtype) == (torch.float32, BF16)
        assert torch.equal(
            computing[name].float().nan_to_num(7), master.to(BF16).float().nan_to_num(7)
        )


def test_what_is_computed_is_bf16_and_what_is_kept_fp32() -> None:
    made = stage()
    y = made.forward((0, 1), Part.BODY, tensor(0), None, seed=0)
    dx = made.backward((0, 1), tensor(1))
    assert dx is not None and y.dtype == dx.dtype == made.dtype == BF16
    assert {gradient.dtype for gradient in made.gradients().values()} == {torch.float32}
    assert all(param.grad is None for param in made.module.parameters())
    made.reduced()
    made.step(0, 1.0)
    assert {held.dtype for _, held in made.snapshot().tensors()} == {torch.float32}
    assert_rounded(made)


def test_steps_that_bf16_would_swallow_add_up() -> None:
    """Of a hundred-thousandth each, where the last bit of a weight near 1 is worth 4e-3."""

    def step(param: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(param, lr=1e-5)

    module = nn.Linear(WIDTH, WIDTH, bias=False)
    nn.init.ones_(module.weight)
    made = Stage(module, replace(conditions(1e-5, weights=BF16), optimizer=step))
    for iteration in range(500):
        made.set_gradients({"weight": torch.ones(WIDTH, WIDTH)})
        made.reduced()
        made.step(iteration, 1.0)
    assert torch.allclose(made.params["weight"], torch.tensor(1 - 500e-5), atol=1e-5)
    assert torch.equal(module.weight, torch.full((WIDTH, WIDTH), 1 - 500e-5).to(BF16))
    assert (torch.ones((), dtype=BF16) - 1e-5).item() == 1.0


def test_gradients_of_microbatches_add_up_in_fp32() -> None:
    made, alone = stage(), stage()
    total: dict[str, Tensor] = {}
    for m in range(40):
        for each in (made, alone):
            each.forward((m, 1), Part.BODY, tensor(m), None, seed=0)
            each.backward((m, 1), tensor(m + 1))
        for name, gradient in alone.gradients().items():
            assert torch.equal(gradient, gradient.to(BF16).float())
            total[name] = total[name] + gradient if name in total else gradient.clone()
        alone.discard()
    assert all(torch.equal(total[name], found) for name, found in made.gradients().items())
    assert not all(torch.equal(found, found.to(BF16).float()) for found in total.values())


def test_clipping_and_norms_are_of_the_sums_in_fp32() -> None:
    made = stage()
    made.forward((0, 1), Part.BODY, tensor(0), None, seed=0)
    made.backward((0, 1), tensor(1))
    norm = torch.cat([g.flatten() for g in made.gradients().values()]).norm()
    assert made.reduced() == pytest.approx(float(norm), rel=1e-6)


@pytest.mark.parametrize("moments", [True, False])
def test_a_state_is_the_masters_and_comes_back_to_the_last_bit(moments: bool) -> None:
    made, other = stage(), Stage(body(seed=1), conditions(weights=BF16))
    train(made, 0)
    state = made.snapshot(moments=moments)
    assert not any(torch.equal(p, p.to(BF16).float()) for p in state.params.values())
    other.restore(state)
    assert same(other.snapshot(), state)
    assert_rounded(other)
    if moments:
        assert other.digest() == made.digest()
        for each in (made, other):
            train(each, 1)
        assert same(other.snapshot(), made.snapshot())


def test_what_is_lost_is_lost_and_restored_whole() -> None:
    made = stage()
    train(made, 0)
    state, y = made.snapshot(), made.evaluate(Part.BODY, tensor(3), None, 0)
    made.destroy()
    assert all(p.isnan().all() for p in (*made.module.parameters(), *made.params.values()))
    assert made.evaluate(Part.BODY, tensor(3), None, 0).isnan().all()
    made.restore(state)
    assert torch.equal(made.evaluate(Part.BODY, tensor(3), None, 0), y)


def test_constants_that_are_taken_are_computed_with() -> None:
    module, other = body(), body(seed=1)
    for each in (module, other):
        next(each.parameters()).requires_grad_(False)
    made, whole = stage(module=module), Stage(other, conditions())
    made.take_constants(whole.snapshot())
    assert_rounded(made)
    name = next(iter(made.constants))
    assert torch.equal(made.params[name], whole.params[name])
    train(made, 0)
    assert torch.equal(made.params[name], whole.params[name])


def test_a_fit_steps_the_masters() -> None:
    made, target = stage(), stage(module=body(seed=5))
    before = made.snapshot()
    pairs = [
        (tensor(m), target.evaluate(Part.BODY, tensor(m), None, 0), Part.BODY) for m in range(8)
    ]
    figures, why = fit_and_judge(made, Recipe("fit", fit=60), pairs, 1e-2, 0)
    assert not why and figures["error"] < 0.5 * figures["unfitted"]
    assert not same(made.snapshot(), before)
    assert_rounded(made)


class Odd(nn.Module):
    """Tied weights, a table, a type of its own, and a layer that has to stay fp32."""

    in_fp32 = ("gain",)

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.other.weight = self.one.weight
        self.gain = nn.Parameter(torch.full((WIDTH,), 1 / 3))
        self.narrow = nn.Parameter(torch.ones(WIDTH, dtype=torch.float16))
        self.register_buffer("table", torch.full((WIDTH,), 1 / 3))

    def forward(self, x: Tensor) -> Tensor:
        seen = (x.dtype, self.gain.dtype, self.narrow.dtype, self.table.dtype)
        assert seen == (BF16, torch.float32, torch.float16, torch.float32)
        return self.other(self.one(x)) * self.gain * self.narrow + self.table


def test_only_fp32_parameters_are_rounded() -> None:
    module = Odd()
    made = stage(module=module)
    assert module.one.weight is module.other.weight and module.one.weight.dtype == BF16
    assert made.params["narrow"].dtype == torch.float16
    train(made, 0)
    y = made.evaluate(Part.BODY, tensor(0), None, 0)
    assert y.dtype == torch.float32
    trained = made.trained()
    assert trained is module and module.one.weight is module.other.weight
    assert all(p is made.params[name] for name, p in module.named_parameters())
    assert module.one.weight.dtype == torch.float32


def test_stage_0_takes_numbers_and_tokens() -> None:
    torch.manual_seed(0)
    made, batch = stage(module=Edge()), states.tensor(1)
    hidden = made.forward((0, 0), Part.EMBED, None, batch, seed=0)
    loss = made.forward((0, 2), Part.HEAD, 2 * hidden, batch, seed=0)
    made.backward((0, 0), 2 * made.backward((0, 2), None))
    assert hidden.dtype == BF16 and loss.isfinite()
    assert len(made.gradients()) == len(made.params)


@pytest.mark.parametrize("recompute", [True, False])
def test_recomputing_gives_the_same_gradients(recompute: bool) -> None:
    made = Stage(body(0.5), conditions(weights=BF16, recompute=recompute))
    other = Stage(body(0.5), conditions(weights=BF16))
    for each in (made, other):
        train(each, 0)
    assert same(made.snapshot(), other.snapshot())


def test_a_forward_that_changes_a_weight_is_refused() -> None:
    class Renorming(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.weight.mul_(0.5)
            return x * self.weight

    with pytest.raises(ValueError, match=r"changes some of its parameters \(weight\)"):
        stage(module=Renorming()).forward((0, 1), Part.BODY, tensor(0), None, seed=0)


Made = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda params: torch.optim.AdamW(params, fused=True),
        lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    ],
    ids=["adamw", "sgd"],
)
def test_moments_are_fp32(optimizer: Made) -> None:
    how: Conditions = replace(conditions(weights=BF16), optimizer=optimizer)
    made = Stage(body(), how)
    train(made, 0)
    assert {moment.dtype for moment in made.snapshot().moments.values()} == {torch.float32}

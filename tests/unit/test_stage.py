"""One stage beside plain autograd and plain Adam."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from checkfree.core.errors import BadInput
from checkfree.stage import Part, Stage
from tests.tiny import WIDTH, Edge
from tests.unit.states import body, conditions, same, tensor, train


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


# --- a microbatch --------------------------------------------------------------------------------


def test_a_body_stage_computes_what_autograd_does() -> None:
    module = body()
    stage, found = Stage(body(), conditions()), []
    for m in range(2):
        y = stage.forward((m, 1), Part.BODY, tensor(m), None, seed=m)
        assert torch.equal(y, module(tensor(m))) and not y.requires_grad
    for m in range(2):
        found.append(stage.backward((m, 1), tensor(7 + m)))
    for m in range(2):
        x = tensor(m).requires_grad_()
        module(x).backward(tensor(7 + m))
        assert torch.equal(found[m], x.grad)
    for name, param in module.named_parameters():
        assert torch.equal(stage.gradients()[name], param.grad)


def test_stage_0_embeds_first_and_takes_the_loss_last() -> None:
    torch.manual_seed(0)
    module, batch = Edge(), tensor(1)
    stage = Stage(module, conditions())
    hidden = stage.forward((0, 0), Part.EMBED, None, batch, seed=0)
    loss = stage.forward((0, 2), Part.HEAD, 2 * hidden, batch, seed=0)
    dx = stage.backward((0, 2), None, scale=0.5)
    assert stage.backward((0, 0), 2 * dx) is None
    found = stage.gradients()
    found = {name: gradient.clone() for name, gradient in found.items()}
    stage.discard()
    plain = module.loss(2 * module.embed(batch), batch)
    (0.5 * plain).backward()
    assert torch.equal(loss, plain) and loss.shape == ()
    assert found.keys() == dict(module.named_parameters()).keys()
    for name, param in module.named_parameters():
        torch.testing.assert_close(found[name], param.grad)


def test_what_comes_in_is_left_as_it_was() -> None:
    stage, x, dy = Stage(body(), conditions()), tensor(0), tensor(1)
    stage.forward((0, 1), Part.BODY, x, None, seed=0)
    stage.backward((0, 1), dy)
    assert torch.equal(x, tensor(0)) and torch.equal(dy, tensor(1))
    assert not x.requires_grad and x.grad is None


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_recomputing_gives_the_same_gradients(dropout: float) -> None:
    found = []
    for recompute in (False, True):
        stage = Stage(body(dropout), conditions(recompute=recompute))
        stage.forward((0, 1), Part.BODY, tensor(0), None, seed=3)
        torch.rand(5)  # somebody else draws in between
        dx = stage.backward((0, 1), tensor(1))
        found.append([dx, *stage.gradients().values()])
    assert len(found[0]) == 3
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_bf16_computes_in_bf16_and_steps_in_fp32() -> None:
    stage = Stage(body(), conditions(autocast=torch.bfloat16))
    plain = Stage(body(), conditions())
    y = stage.forward((0, 1), Part.BODY, tensor(0).bfloat16(), None, seed=0)
    assert y.dtype is torch.bfloat16
    torch.testing.assert_close(
        y.float(), plain.forward((0, 1), Part.BODY, tensor(0), None, seed=0), atol=0.05, rtol=0.05
    )
    dx = stage.backward((0, 1), tensor(1))
    assert dx is not None and dx.dtype is torch.bfloat16
    assert {g.dtype for g in stage.gradients().values()} == {torch.float32}
    stage.reduced()
    stage.step(0, 1.0)
    assert {t.dtype for _, t in stage.snapshot().tensors()} == {torch.float32}


def test_dropout_is_the_seeds_alone() -> None:
    stage = Stage(body(0.5), conditions())

    def run(seed: int) -> Tensor:
        return stage.forward((0, 1), Part.BODY, tensor(0), None, seed)

    first = run(1)
    torch.rand(17)
    assert torch.equal(run(1), first)
    assert not torch.equal(run(2), first)
    assert torch.equal(stage.redundant_forward(Part.BODY, tensor(0), None, 1), first)


def test_the_random_state_is_put_back() -> None:
    stage = Stage(body(0.5), conditions(recompute=True))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    stage.forward((0, 1), Part.BODY, tensor(0), None, seed=1)
    stage.redundant_forward(Part.BODY, tensor(0), None, 1)
    stage.evaluate(Part.BODY, tensor(0), None, 1)
    stage.backward((0, 1), tensor(1))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_random_state_is_put_back_after_an_error_too() -> None:
    stage = Stage(body(0.5), conditions())
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        stage.forward((0, 1), Part.BODY, tensor(0, 3, 9), None, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_evaluation_leaves_each_layer_in_its_mode() -> None:
    """A user's own may have some that never train: their losses would depend on when one
    validates, and a normalisation without fixed numbers is refused."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(WIDTH, WIDTH), nn.Dropout(0.9).eval(), nn.BatchNorm1d(WIDTH).eval(), nn.Dropout()
    )
    stage = Stage(module, conditions())
    modes = [layer.training for layer in stage.module.modules()]
    assert modes == [True, True, False, False, True]
    x = torch.ones(3, WIDTH)
    before = stage.forward((0, 1), Part.BODY, x, None, seed=1)
    stage.evaluate(Part.BODY, x, None, seed=1)
    assert [layer.training for layer in stage.module.modules()] == modes
    assert torch.equal(stage.forward((1, 1), Part.BODY, x, None, seed=1), before)


def test_evaluation_drops_nothing_and_changes_nothing() -> None:
    stage = Stage(body(0.9), conditions())
    before = stage.snapshot()
    y = stage.evaluate(Part.BODY, tensor(0), None, seed=1)
    assert torch.equal(y, body(0.0)(tensor(0))) and not y.requires_grad
    assert stage.module.training and stage.gradients() == {}
    assert same(stage.snapshot(), before)
    with pytest.raises(KeyError):
        stage.backward((0, 1), tensor(1))


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        normed: Tensor = self.norm(hidden)
        return normed


@pytest.mark.parametrize("recompute", [False, True])
def test_running_statistics_are_refused(recompute: bool) -> None:
    stage = Stage(Normed(), conditions(recompute=recompute))
    with pytest.raises(BadInput, match="forward of Normed changes some of its buffers") as refused:
        stage.forward((0, 1), Part.BODY, tensor(0), None, seed=0)
    assert "running_mean" in str(refused.value) and "\n" not in str(refused.value)


class View(nn.Module):
    """Returns a view of something larger, or of a stride of its own."""

    def __init__(self, view: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.view = nn.Linear(WIDTH, WIDTH), view

    def forward(self, hidden: Tensor) -> Tensor:
        return self.view(self.inner(hidden))


@pytest.mark.parametrize(
    "view", [lambda y: y[:, :2], lambda y: y[1:], lambda y: y.T, lambda y: y[:1].expand(3, -1)]
)
@pytest.mark.parametrize("call", ["forward", "evaluate"])
def test_what_leaves_owns_its_memory(view: Callable[[Tensor], Tensor], call: str) -> None:
    stage = Stage(View(view), conditions())
    if call == "forward":
        y = stage.forward((0, 1), Part.BODY, tensor(0), None, seed=0)
    else:
        y = stage.evaluate(Part.BODY, tensor(0), None, seed=0)
    assert y.is_contiguous()
    assert y.untyped_storage().nbytes() == y.numel() * y.element_size()
    with torch.no_grad():
        assert torch.equal(y, stage.module(tensor(0)))


# --- a step --------------------------------------------------------------------------------------


def test_a_discarded_iteration_is_forgotten() -> None:
    stage, clean = Stage(body(), conditions()), Stage(body(), conditions())
    for m in range(2):
        stage.forward((m, 1), Part.BODY, tensor(m), None, seed=0)
    stage.backward((0, 1), tensor(3))
    stage.discard()
    assert stage.gradients() == {}
    with pytest.raises(KeyError):
        stage.backward((1, 1), tensor(3))
    train(stage, 0)
    train(clean, 0)
    assert same(stage.snapshot(), clean.snapshot())


def test_a_step_is_adams_with_the_clipped_gradient() -> None:
    module = body()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1 * 1.5)
    stage = Stage(body(), conditions())
    stage.restore(replace(stage.snapshot(), lr_scale=1.5))
    for iteration in range(3):
        train(stage, iteration, clip=0.25)
        for m in range(2):
            module(tensor(10 * iteration + m)).backward(tensor(10 * iteration + m + 5))
        for param in module.parameters():
            param.grad *= 0.25
        optimizer.step()
        optimizer.zero_grad()
    for name, param in module.named_parameters():
        assert torch.equal(stage.snapshot().params[name], param)


def test_a_step_remembers_its_norm_before_and_after_clipping() -> None:
    stage = Stage(body(), conditions())
    stage.set_gradients({"inner.bias": torch.tensor([3.0, 0.0, 4.0, 0.0])})
    assert stage.reduced() == 5.0
    assert stage.gradient_norm == 0.0  # that of the last committed step, and there is none
    stage.step(6, 0.5)
    assert (stage.gradient_norm, stage.clipped_norm, stage.version) == (5.0, 2.5, 7)
    assert stage.gradients() == {}


def test_a_stage_without_a_gradient_stays() -> None:
    stage = Stage(body(), conditions())
    before = stage.snapshot()
    assert stage.reduced() == 0.0
    stage.step(0, 1.0)
    assert same(replace(stage.snapshot(), version=0), before)


def test_the_rate_of_a_rebuilt_stage_comes_down_by_half_lives() -> None:
    stage = Stage(body(), conditions(lr_scale_decay=0.5 ** (1 / 2)))
    stage.restore(replace(stage.snapshot(), lr_scale=1.8))
    found = []
    for iteration in range(4):
        train(stage, iteration)
        found.append(stage.lr_scale)
    assert found[1::2] == pytest.approx([1.4, 1.2])


def test_the_rate_of_a_rebuilt_stage_persists_by_default() -> None:
    stage = Stage(body(), conditions())
    stage.restore(replace(stage.snapshot(), lr_scale=1.1))
    for iteration in range(4):
        train(stage, iteration)
    assert stage.lr_scale == 1.1

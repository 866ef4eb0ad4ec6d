"""A split backward beside a whole one: the same bits, whatever the module is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from checkfree.core.errors import BadInput
from checkfree.stage import Part, Stage
from checkfree.stage.split import input_backward
from tests.tiny import WIDTH, Body, Edge
from tests.unit.states import body, conditions, tensor

MICROBATCHES = 3


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Shared(nn.Module):
    """One layer, twice; another between."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.between = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        first: Tensor = self.twice(x).tanh()
        return x + self.twice(first + self.between(first).tanh())


class Branches(nn.Module):
    """Weights that read the input, and others that don't; some behind each other."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.added, self.gate = (nn.Parameter(torch.randn(WIDTH, WIDTH)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        made = self.added @ self.gate.tanh()  # of weights alone
        both: Tensor = self.one(x) * self.other(x).sigmoid()
        return x + self.out(both.tanh()) @ made + self.one.weight.sum()


class Halves(nn.Module):
    """A product whose two outputs are used apart; one for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        left, right, _ = self.inner(x).chunk(3, -1)
        return x + left.sin() * right


class Doubled(torch.autograd.Function):
    """A product of input and weight, written in Python."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return 2 * x @ weight

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return 2 * dy @ weight.mT, 2 * x.flatten(0, -2).mT @ dy.flatten(0, -2)


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = Doubled.apply(self.before(x).tanh(), self.weight)
        return x + self.after(y)


class Hidden(nn.Module):
    """Its weights are in no graph: they get gradients on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = checkpoint(self.inner, x, use_reentrant=True)
        return x + y


class Recomputing(Hidden):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = checkpoint(self.inner, x, use_reentrant=False)
        return x + y


class Hooked(nn.Module):
    """A gradient is changed on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        y.register_hook(lambda dy: 3 * dy)
        z: Tensor = self.outer(y.tanh())
        return x + z


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv1d(3, 3, 3, padding=1), nn.LayerNorm(WIDTH), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return x + y


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.GRU(WIDTH, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)[0]
        return x + y


class Partial(nn.Module):
    """Much of it never trains; of one layer nothing is used."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.inner, self.idle = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.frozen(self.inner(x).tanh())
        return x + y


def normed() -> nn.Module:
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)),
        nn.Tanh(),
        nn.TransformerEncoderLayer(WIDTH, 2, 8, 0.1, batch_first=True, norm_first=True),
    )


SPLIT: dict[str, Callable[[], nn.Module]] = {
    "body": body,
    "with dropout": lambda: Body(0.5),
    "one product": lambda: nn.Linear(WIDTH, WIDTH),
    "branches": Branches,
    "halves": Halves,
    "shared": Shared,
    "custom": Custom,
    "recomputing": Recomputing,
    "hooked": Hooked,
    "convolution": Images,
    "partly frozen": Partial,
    "recurrent": Recurrent,
    "norms and attention": normed,
    "deep": lambda: nn.Sequential(*[Branches() for _ in range(5)]),
}


def compiled() -> nn.Module:
    """One of two layers; by a backend that calls no compiler."""
    inner = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
    return nn.Sequential(torch.compile(inner, backend="aot_eager"), nn.Linear(WIDTH, WIDTH))


WHOLE: dict[str, Callable[[], nn.Module]] = {
    "hidden weights": Hidden,
    "nothing but a norm": lambda: nn.LayerNorm(WIDTH),
    "shared alone": lambda: nn.Sequential(*[nn.Linear(WIDTH, WIDTH)] * 2),
    "identity": nn.Identity,
    "compiled in part": compiled,
}


def run(make: Callable[[], nn.Module], *, split: bool, **how: Any) -> tuple[list[Any], list[bool]]:
    """The gradients by inputs and weights after some microbatches, and what was left to W."""
    torch.manual_seed(0)
    stage, found, left = Stage(make(), conditions(**how)), [], []
    for m in range(MICROBATCHES):
        stage.forward((m, 1), Part.BODY, tensor(m), None, seed=m)
    for m in range(MICROBATCHES):
        found.append(stage.backward((m, 1), tensor(7 + m), split=split))
    if split:
        left = [stage.backward_weights((m, 1)) for m in range(MICROBATCHES)]
    gradients = stage.gradients()
    assert all(g.stride() == stage.params[n].stride() for n, g in gradients.items())
    return [*found, *(gradients[name] for name in sorted(gradients))], left


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("name", [*SPLIT, *WHOLE])
def test_both_halves_are_the_whole_bit_for_bit(name: str, recompute: bool) -> None:
    make = {**SPLIT, **WHOLE}[name]
    whole, _ = run(make, split=False, recompute=recompute)
    halves, left = run(make, split=True, recompute=recompute)
    assert len(whole) == len(halves)
    assert all(torch.equal(one, other) for one, other in zip(whole, halves, strict=True))
    assert left == [name in SPLIT] * MICROBATCHES


def test_in_bf16_too() -> None:
    how = {"autocast": torch.bfloat16}
    whole, _ = run(normed, split=False, **how)
    halves, left = run(normed, split=True, **how)
    assert all(torch.equal(one, other) for one, other in zip(whole, halves, strict=True))
    assert all(left)


def test_weights_add_up_in_the_order_of_their_ops() -> None:
    """As float addition does not commute: with gradients of very different sizes it shows."""

    def added(order: list[int], *, split: bool) -> list[Tensor]:
        stage = Stage(body(), conditions())
        for m in range(MICROBATCHES):
            stage.forward((m, 1), Part.BODY, tensor(m), None, seed=m)
        for m in range(MICROBATCHES) if split else order:
            stage.backward((m, 1), 10.0 ** (3 * m) * tensor(7 + m), split=split)
        for m in order if split else ():
            stage.backward_weights((m, 1))
        return [gradient.clone() for gradient in stage.gradients().values()]

    for order in ([0, 1, 2], [2, 0, 1]):
        pairs = zip(added(order, split=True), added(order, split=False), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
    there, back = added([0, 1, 2], split=True), added([2, 1, 0], split=True)
    assert not all(torch.equal(one, other) for one, other in zip(there, back, strict=True))


def test_until_the_second_half_no_weight_has_a_gradient() -> None:
    stage = Stage(normed(), conditions())
    stage.forward((0, 1), Part.BODY, tensor(0), None, seed=0)
    stage.backward((0, 1), tensor(7), split=True)
    assert not stage.gradients()
    stage.backward_weights((0, 1))
    assert stage.gradients().keys() == stage.params.keys()


def test_a_loss_is_split_and_an_embedding_is_not() -> None:
    found = []
    for split in (False, True):
        torch.manual_seed(0)
        stage, batch = Stage(Edge(), conditions()), tensor(1)
        hidden = stage.forward((0, 0), Part.EMBED, None, batch, seed=0)
        stage.forward((0, 2), Part.HEAD, 2 * hidden, batch, seed=0)
        dx = stage.backward((0, 2), None, scale=0.5, split=split)
        assert dx is not None and bool(stage.gradients()) is not split
        if split:
            assert stage.backward_weights((0, 2))
        assert stage.backward((0, 0), 2 * dx, split=split) is None
        assert not stage.backward_weights((0, 0))
        found.append([dx, *stage.gradients().values()])
    assert len(found[0]) == 5
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_what_is_half_done_is_forgotten_with_its_iteration() -> None:
    stage = Stage(body(), conditions())
    stage.forward((0, 1), Part.BODY, tensor(0), None, seed=0)
    stage.backward((0, 1), tensor(7), split=True)
    stage.discard()
    assert not stage.backward_weights((0, 1)) and not stage.gradients()


def test_a_body_without_a_gradient_by_its_input_is_refused() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.weight

    stage = Stage(Constant(), conditions())
    stage.forward((0, 1), Part.BODY, tensor(0), None, seed=0)
    with pytest.raises(BadInput, match="has no gradient by its input"):
        stage.backward((0, 1), tensor(7), split=True)


def test_what_arrives_is_left_as_it_was_and_shared_with_no_gradient() -> None:
    """A bias of an input's own shape has the very gradient that arrives."""

    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(2, 3, WIDTH))
            self.inner = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.bias + 0 * self.inner(x)

    stage, arriving = (
        Stage(Biased(), conditions()),
        [tensor(7, 2, 3, WIDTH), tensor(8, 2, 3, WIDTH)],
    )
    before = [dy.clone() for dy in arriving]
    for m in range(2):
        stage.forward((m, 1), Part.BODY, tensor(m, 2, 3, WIDTH), None, seed=0)
        stage.backward((m, 1), arriving[m], split=True)
    for m in range(2):
        stage.backward_weights((m, 1))
    assert all(torch.equal(dy, was) for dy, was in zip(arriving, before, strict=True))
    assert torch.equal(stage.gradients()["bias"], before[0] + before[1])


def test_a_product_runs_once_for_each_of_its_inputs() -> None:
    """Else a split backward would cost a third more than a whole one."""
    seen: list[tuple[bool, bool]] = []
    module = nn.Sequential(
        nn.Linear(WIDTH, WIDTH, bias=False), nn.Tanh(), nn.Linear(WIDTH, 8, bias=False)
    )
    x = tensor(0, 2, 3, WIDTH).requires_grad_()
    y = module(x)
    products = [node for node in _nodes(y.grad_fn) if "Mm" in node.name()]
    assert len(products) == 2
    for node in products:
        node.register_hook(
            lambda by_inputs, _: seen.append((*(dx is not None for dx in by_inputs[-2:]),))
        )
    halves = input_backward(y, x, torch.ones_like(y), [*module.parameters()])
    assert halves is not None
    assert seen == [(True, False)] * 2
    halves[1].run()
    assert seen[2:] == [(False, True)] * 2


def _nodes(root: Any) -> list[Any]:
    return [root, *(n for child, _ in root.next_functions if child for n in _nodes(child))]

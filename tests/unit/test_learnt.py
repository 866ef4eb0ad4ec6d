"""What of a stage is learnt, as repairs see it: told apart from constants, and typed again."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from checkfree.messages.tensors import StageState
from checkfree.recovery.shadow.format import pack_state
from checkfree.stage import Part, Stage
from checkfree.stage.learnt import constants_of, in_types_of, learnable, real, without
from tests.tiny import WIDTH, Body
from tests.unit.states import conditions


class Partly(Body):
    """Some of it trains."""

    def __init__(self, table: int = 1) -> None:
        super().__init__()
        self.frozen = nn.Parameter(torch.full((2,), float(table)), requires_grad=False)
        self.codes = nn.Parameter(torch.full((2, 3), table, dtype=torch.int8), requires_grad=False)
        self.turn = nn.Parameter(torch.ones(3, dtype=torch.complex64))
        self.register_buffer("places", torch.arange(4).expand(3, 4))


def stage(module: nn.Module | None = None) -> Stage:
    return Stage(module or Partly(), conditions())


def test_what_never_trains_is_told_apart() -> None:
    made = stage()
    assert made.constants == {"frozen", "codes"}
    state = replace(
        made.snapshot(), moments={"turn/exp_avg": torch.ones(3), "frozen/x": torch.ones(2)}
    )
    left = without(state, made.constants)
    assert left.params.keys() == {"inner.weight", "inner.bias", "turn"}
    assert left.moments.keys() == {"turn/exp_avg"} and not left.buffers
    rest = constants_of(state, made.constants)
    assert rest.params.keys() == made.constants and rest.buffers.keys() == {"places"}


def test_of_a_packed_state_too() -> None:
    state = replace(
        pack_state(real(stage().snapshot()), "int8_rows"), heading={"codes/x": torch.ones(1)}
    )
    left = without(state, {"frozen", "codes"})
    assert left.params.keys() == {
        *("inner.weight/codes", "inner.weight/scales", "inner.bias/values", "turn/values")
    }
    assert not left.heading


def test_a_shadow_has_what_any_stage_may_learn() -> None:
    """A frozen parameter may be one that trains elsewhere; whole numbers never are."""
    found = learnable(stage().snapshot()).params
    assert found.keys() == {"inner.weight", "inner.bias", "frozen", "turn"}
    assert found["turn"].dtype == torch.float32 and found["turn"].shape == (6,)


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3), (2, 0, 3)])
def test_complex_numbers_there_and_back(shape: tuple[int, ...]) -> None:
    own = torch.randn(shape, dtype=torch.complex64)
    (made,) = real(StageState({"w": own}, {}, {}, 0)).params.values()
    assert not made.is_complex() and made.numel() == 2 * own.numel()
    assert torch.equal(in_types_of({"w": own}, {"w": made})["w"], own)


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (65536.0, torch.float16, 65504.0),  # as bf16 rounds the largest of fp16
        (-65536.0, torch.float16, -65504.0),
        (torch.inf, torch.float16, torch.inf),
        (-torch.inf, torch.bfloat16, -torch.inf),
        (1.0 + 2**-10, torch.bfloat16, 1.0),
        (3.4e38, torch.float64, torch.tensor(3.4e38).item()),
    ],
)
def test_what_is_rounded_up_stays_finite(value: float, dtype: torch.dtype, expected: float) -> None:
    own = {"w": torch.zeros(1, dtype=dtype)}
    (made,) = in_types_of(own, {"w": torch.tensor([value])}).values()
    assert made.dtype == dtype and made.tolist() == [expected]


def test_nothing_is_copied_that_is_of_its_type() -> None:
    tensor = torch.ones(3)
    assert in_types_of({"w": torch.zeros(3)}, {"w": tensor, "x": tensor}) == {
        "w": tensor,
        "x": tensor,
    }


def test_a_stage_restored_without_constants_keeps_its_own() -> None:
    made, other = stage(), stage(Partly(7))
    state = other.snapshot()
    made.restore(replace(without(state, other.constants), params=dict(state.params) | made.params))
    made.restore(without(state, other.constants))
    assert torch.equal(made.module.inner.weight, other.module.inner.weight)
    assert made.module.frozen.tolist() == [1.0, 1.0] and made.module.codes.unique().tolist() == [1]
    made.take_constants(constants_of(state, other.constants))
    assert made.module.frozen.tolist() == [7.0, 7.0] and made.module.codes.unique().tolist() == [7]


def test_of_another_type_it_is_not_restored() -> None:
    made = stage()
    state = made.snapshot()
    wrong = {**state.params, "inner.bias": state.params["inner.bias"].bfloat16()}
    with pytest.raises(ValueError, match=r"inner.bias is bfloat16\[4\], expected float32\[4\]"):
        made.restore(replace(state, params=wrong))


def test_what_shares_memory_is_given_its_own() -> None:
    """Else it could not be overwritten when it is lost, nor written to when it is restored."""
    made = stage()
    state = made.snapshot()
    made.destroy()
    made.restore(state)
    assert made.module.places.tolist() == [[0, 1, 2, 3]] * 3


def test_a_sparse_constant_that_nobody_keeps_survives_its_stage() -> None:
    module = Body()
    module.register_buffer("near", torch.eye(3).to_sparse(), persistent=False)
    stage(module).destroy()


class Adapted(nn.Module):
    """Most of it in one type, and some in another that comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = nn.Parameter(torch.ones(99, dtype=torch.int64), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(WIDTH))
        self.inner = nn.Linear(WIDTH, WIDTH, dtype=torch.bfloat16)

    def forward(self, hidden: Tensor) -> Tensor:
        y: Tensor = self.inner(hidden) * self.scale.bfloat16()
        return y


def test_a_stage_computes_in_the_type_of_most_of_its_numbers() -> None:
    made = stage(Adapted())
    assert made.dtype == torch.bfloat16
    x = torch.ones(3, WIDTH, dtype=made.dtype)
    assert made.evaluate(Part.BODY, x, None, 0).dtype == torch.bfloat16
    assert stage(nn.Identity()).dtype == torch.float32

"""Changes in one bit a value: what is left out is bounded, and a next change has it."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad

from checkfree.core.formats import SIGN_BLOCK, SIGNS, bytes_of
from checkfree.recovery.shadow.signs import pack_change, unpack_change

shapes = st.lists(st.integers(1, 70), min_size=2, max_size=3).map(tuple)


def drawn(shape: tuple[int, ...], seed: int, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def back(x: Tensor) -> Tensor:
    return unpack_change(pack_change(x), x.shape)


def squares(x: Tensor) -> Tensor:
    """Of each block, summed."""
    flat = x.reshape(-1).double()
    return pad(flat, (0, -len(flat) % SIGN_BLOCK)).view(-1, SIGN_BLOCK).square().sum(-1)


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(0, 99), st.sampled_from((1e-20, 1e-3, 1.0, 1e12)))
def test_of_any_shape(shape: tuple[int, ...], seed: int, scale: float) -> None:
    """Its size, its signs, and in each block less than it was by more than a 257th."""
    x = drawn(shape, seed, scale)
    parts, again = pack_change(x), back(x)
    assert again.shape == x.shape and again.dtype == torch.float32
    assert sum(part.nbytes for part in parts.values()) == bytes_of(shape, SIGNS)
    assert torch.equal(again.signbit(), x < 0)
    assert (squares(x - again) <= squares(x) * 256 / 257).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=3 * SIGN_BLOCK))
def test_no_block_is_further_off_than_before(values: list[float]) -> None:
    x = torch.tensor([values])
    assert (squares(x - back(x)) <= squares(x) + 1e-78).all()


@pytest.mark.parametrize("shape", [(2, 3), (5, 13), (3, 64), (2, 2, 129), (9, 97)])
def test_what_is_left_out_is_made_up_for(shape: tuple[int, ...]) -> None:
    """Change by change, what a holder has comes to a target that stays where it is."""
    target, held = drawn(shape, 0), drawn(shape, 1)
    errors = []
    for _ in range(240):
        errors.append(float((target - held).norm()))
        held = held + back(target - held)
    assert all(b <= max(a, 1e-5) for a, b in pairwise(errors)), "fp32 has no less"
    assert errors[-1] < 0.02 * errors[0]


def test_what_does_not_change_stays() -> None:
    """In blocks of its own: a zero beside others moves, and is brought back."""
    x = torch.zeros(4, SIGN_BLOCK)
    x[1] = drawn((SIGN_BLOCK,), 0)
    assert not back(x)[[0, 2, 3]].any()


def test_the_last_block_has_its_own_mean() -> None:
    x = torch.full((1, SIGN_BLOCK + 3), 3.0)
    assert torch.equal(back(x), x), "what fills the block up does not count"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_shows(bad: float) -> None:
    x = drawn((3, SIGN_BLOCK), 0)
    x[1, 5] = bad
    again = back(x)
    assert not again[1].isfinite().any() and again[[0, 2]].isfinite().all()


def test_memory_layout_does_not_matter() -> None:
    x = drawn((40, 13), 0)
    one, other = pack_change(x.t()), pack_change(x.t().contiguous())
    assert all(torch.equal(one[name], other[name]) for name in one)
    x.zero_()
    assert torch.equal(one["scales"], other["scales"]), "it owns its memory"


def test_what_is_no_change_of_that_shape_is_refused() -> None:
    shape = torch.Size((3, 30))
    parts = pack_change(drawn(shape, 0))
    assert torch.equal(unpack_change(parts, shape), unpack_change(dict(parts), shape))
    for wrong in (
        {"codes": parts["codes"]},
        {**parts, "codes": parts["codes"][:-1]},
        {**parts, "codes": parts["codes"].to(torch.int8)},
        {**parts, "scales": parts["scales"].float()},
        {**parts, "scales": parts["scales"].unsqueeze(0)},
        {**parts, "more": parts["scales"]},
    ):
        with pytest.raises(ValueError, match="signs"):
            unpack_change(wrong, shape)
    with pytest.raises(ValueError, match="expected"):
        unpack_change(parts, torch.Size((3, 3000)))

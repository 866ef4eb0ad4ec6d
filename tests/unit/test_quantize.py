"""Packing: what is lost is bounded, what is wrong shows, and the bytes are those foretold."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from checkfree.core.formats import (
    BLOCK,
    BLOCK_OF_4,
    FORMATS,
    INT4,
    INT4_ROWS,
    INT8,
    INT8_ROWS,
    bytes_of,
)
from checkfree.messages.quantize import pack, unpack

SHAPES = [(), (1,), (0,), (7,), (BLOCK,), (BLOCK + 1,), (3, 5), (4, 8), (0, 5), (5, 0), (2, 3, 129)]

LOST = {"fp32": 0.0, "bf16": 2**-8, "fp16": 2**-11, INT8: 1 / 254, INT8_ROWS: 1 / 254}
LOST[INT4] = LOST[INT4_ROWS] = 1 / 14


def back(x: Tensor, how: str) -> Tensor:
    return unpack(pack(x, how), how, x.dtype)


def random(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("how", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_of_any_shape(how: str, shape: tuple[int, ...]) -> None:
    x = random(shape)
    parts, again = pack(x, how), back(x, how)
    assert again.shape == x.shape and again.dtype == x.dtype
    assert sum(part.numel() * part.element_size() for part in parts.values()) == bytes_of(
        shape, how
    )
    assert all(part.is_contiguous() for part in parts.values())
    if x.numel():
        assert (x - again).abs().max() <= LOST[how] * x.abs().max() * (1 + 1e-5)


rows = st.lists(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=5, max_size=5),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("how", [INT8_ROWS, INT4_ROWS])
@given(rows)
@settings(max_examples=100, deadline=None)
def test_a_row_loses_at_most_half_a_step(how: str, values: list[list[float]]) -> None:
    x = torch.tensor(values)
    lost, largest = (x - back(x, how)).abs(), x.abs().amax(dim=1, keepdim=True)
    assert (lost <= LOST[how] * largest * (1 + 1e-5) + 1e-44).all()


@pytest.mark.parametrize(("how", "size"), [(INT8, BLOCK), (INT4, BLOCK_OF_4)])
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=9))
@settings(deadline=None)
def test_a_block_loses_at_most_half_a_step(how: str, size: int, values: list[float]) -> None:
    x = torch.tensor(values).repeat_interleave(size).view(-1, size // 2)
    assert torch.equal(back(x, how), x), "each block holds one value, which is its largest"


def test_blocks_of_4_bits_go_on_from_row_to_row() -> None:
    """Rows of an odd width, which fill up a byte each: no scale is theirs alone."""
    x = random((129, 3)) * torch.arange(1, 130).unsqueeze(-1)
    lost, flat = (x - back(x, INT4)).view(-1), x.view(-1)
    for begin in range(0, len(flat), BLOCK_OF_4):
        block = slice(begin, begin + BLOCK_OF_4)
        assert lost[block].abs().max() <= LOST[INT4] * flat[block].abs().max() * (1 + 1e-5)
    assert bytes_of((129, 3), INT4) == 129 * 2 + 4 * 7


@pytest.mark.parametrize("how", FORMATS)
def test_what_was_unpacked_packs_to_the_same(how: str) -> None:
    once = pack(random((6, 37)) * 1e3, how)
    twice = pack(unpack(once, how, torch.float32), how)
    assert all(torch.equal(once[name], twice[name]) for name in once)


@pytest.mark.parametrize("how", FORMATS)
def test_zeros_stay_zeros(how: str) -> None:
    x = torch.zeros(3, 9)
    x[1] = random((9,))
    assert not back(x, how)[[0, 2]].any()


@pytest.mark.parametrize("how", FORMATS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_finite_after(how: str, bad: float) -> None:
    x = random((4, 300))
    x[2, 5] = bad
    again = back(x, how)
    assert not again[2, 5].isfinite()
    if how in (INT8_ROWS, INT4_ROWS):
        assert again[2].isnan().all() and again[[0, 1, 3]].isfinite().all()


@pytest.mark.parametrize("how", FORMATS)
def test_memory_layout_does_not_matter(how: str) -> None:
    x = random((40, 12))
    strided, whole = x.t(), x.t().contiguous()
    one, other = pack(strided, how), pack(whole, how)
    assert all(torch.equal(one[name], other[name]) for name in one)
    x.zero_()
    assert all(torch.equal(one[name], other[name]) for name in one), "it owns its memory"
    assert back(strided, how).is_contiguous()


def test_the_widest_values_survive() -> None:
    most = torch.finfo(torch.float32).max
    x = torch.tensor([[most, -most], [1e-45, 0.0]])
    for how in (INT8, INT4, INT8_ROWS, INT4_ROWS):
        assert torch.equal(back(x[:1], how), x[:1]), how
    assert back(x, INT8_ROWS).isfinite().all()


def test_fp64_is_packed_as_fp32_is() -> None:
    x = random((3, 8)).double()
    assert back(x, INT8_ROWS).dtype == torch.float64
    assert torch.equal(back(x, INT8_ROWS), back(x.float(), INT8_ROWS).double())


def test_what_packs_to_nothing_sane_is_refused() -> None:
    parts = pack(random((3, 8)), INT8_ROWS)
    with pytest.raises(ValueError, match="scales"):
        unpack({**parts, "scales": parts["scales"][:2]}, INT8_ROWS, torch.float32)
    with pytest.raises(ValueError, match=r"torch\.uint8"):
        unpack(parts, INT4_ROWS, torch.float32)
    with pytest.raises(ValueError, match="made of"):
        unpack({"codes": parts["codes"]}, INT8_ROWS, torch.float32)
    with pytest.raises(ValueError, match=r"torch\.uint8"):
        unpack(parts, INT4, torch.float32)
    fours = pack(random((3, 8)), INT4)
    with pytest.raises(ValueError, match="scales"):
        unpack({**fours, "scales": fours["scales"].repeat(2)}, INT4, torch.float32)
    kinds = ((INT8_ROWS, torch.int8), (INT4_ROWS, torch.uint8), (INT4, torch.uint8))
    for how, dtype in kinds:
        for shape in ((), (3,), (3, 0)):
            odd = {"codes": torch.ones(shape).to(dtype), "scales": torch.ones(shape[:-1])}
            with pytest.raises(ValueError, match="expected rows"):
                unpack(odd, how, torch.float32)
    for wrong in (lambda: pack(random((2,)), "int3"), lambda: bytes_of((2,), "int3")):
        with pytest.raises(ValueError, match="int3"):
            wrong()

"""The sum that tells two states apart."""

from __future__ import annotations

import pytest
import torch

from checkfree.stage.digest import digest

TYPES = (
    *(torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64),
    *(torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool),
)


def noise(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    values = torch.randn(count, generator=generator) * 3
    return values.to(dtype)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("count", [0, 1, 7, 1024, 2**16 + 3])
def test_every_bit_counts(dtype: torch.dtype, count: int) -> None:
    tensor = noise(count, dtype)
    before = digest([("weight", tensor)], [1.0])
    assert digest([("weight", tensor.clone())], [1.0]) == before
    raw = tensor.view(torch.uint8) if count else tensor
    for place in {0, count // 2, count - 1} if count else ():
        other = tensor.clone()
        changed = other.view(torch.uint8)
        at = place * raw.numel() // count
        changed[at] ^= 1
        assert digest([("weight", other)], [1.0]) != before, place


@pytest.mark.parametrize("count", [8, 4096, 2**17])
def test_a_number_in_another_place_is_another_state(count: int) -> None:
    tensor = noise(count)
    before = digest([("weight", tensor)], [])
    for one, other in ((0, 2), (1, count - 1), (0, count // 2)):
        swapped = tensor.clone()
        swapped[[one, other]] = swapped[[other, one]]
        assert digest([("weight", swapped)], []) != before


def test_names_types_numbers_and_order() -> None:
    one, other = noise(5), noise(6)
    before = digest([("a", one), ("b", other)], [0.5, 2.0])
    assert digest([("b", other), ("a", one)], [0.5, 2.0]) == before
    assert digest([("a", one), ("c", other)], [0.5, 2.0]) != before
    assert digest([("a", one), ("b", other)], [2.0, 0.5]) != before
    assert digest([("a", one), ("b", other)], [0.5, -2.0]) != before
    zeros = torch.zeros(4, dtype=torch.int32)
    assert digest([("a", zeros)], []) != digest([("a", zeros.view(torch.float32))], [])
    assert digest([("a", torch.tensor(0.0))], []) != digest([("a", torch.tensor(-0.0))], [])


def test_what_is_a_view_counts_as_what_it_shows() -> None:
    wide = noise(64).reshape(8, 8)
    assert digest([("a", wide.T)], []) == digest([("a", wide.T.contiguous())], [])
    assert digest([("a", wide[1:, 1:])], []) == digest([("a", wide[1:, 1:].clone())], [])


def test_it_fits_a_message() -> None:
    found = {digest([("a", noise(n))], [n]) for n in range(200)}
    assert len(found) == 200
    assert all(0 <= value < 2**63 for value in found)

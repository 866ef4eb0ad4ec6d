"""The sum that tells two states apart."""

from __future__ import annotations

import pytest
import torch

from checkfree.stage.digest import device_sums, digest, host_sums

TYPES = (
    *(torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64),
    *(torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool),
)


RECORDED = {
    torch.float64: (
        *(0x4445899E8A0A3C45, 0x49243580954B85A, 0x3D4F0FE50ABFC030),
        *(0x61336CE542C76627, 0x7E6361B682EF28E7, 0x4F84BC27A6895EFB),
    ),
    torch.float32: (
        *(0x7AEC93F358288960, 0x31DD2BFA9FAE233B, 0x47B49C477D5F1AED),
        *(0x7F2377567F5444C0, 0x1F7EEFCC7D4BEDEE, 0x48528C173A62C62E),
    ),
    torch.bfloat16: (
        *(0x592AF1473C7E7E07, 0x2BAE05DE6DDC3E5C, 0x5C1C6994315927D3),
        *(0x1BEE55239098058F, 0x3A989BAF2456B44B, 0x9F4091C8D2BFC51),
    ),
    torch.float16: (
        *(0x322C2677A44BDEC2, 0x65E5060499BDC7C, 0x240D5A12BB88D819),
        *(0x77AABEF8EBEB4DE2, 0x33435DC6C9C093D1, 0x5D221FEF80B266C5),
    ),
    torch.complex64: (
        *(0x13F06F235801ED97, 0x26782F82A7F669AC, 0x7481424CD595812E),
        *(0xE0C514E8C164065, 0x36D3525194EAF125, 0x6DCE262D8D64573D),
    ),
    torch.int64: (
        *(0x68F81CA73DE02616, 0x467698EF0541DAAC, 0x4729DBB78E0A5619),
        *(0x14C4812363AE2BA6, 0x2CD4BB70C26C676A, 0x522F6661C0544E64),
    ),
    torch.int32: (
        *(0x156A2D05B055E1B7, 0x24E6AD423AA5D250, 0x703FBBE4446A5338),
        *(0x4CD48AEA9F55A790, 0x63431B38B35F5859, 0x1B269E38505BDCFF),
    ),
    torch.int8: (
        *(0x469D6A23A47E7DC9, 0x1EC93A5648518073, 0x2A165C75F08CFC0E),
        *(0x64EFD85A44DAB6E9, 0x5005C05CFEFDF009, 0x4B775B3C8B6498F1),
    ),
    torch.uint8: (
        *(0x6D33674CF911913, 0x5EFF06A773641BBD, 0x716E41E11E75A704),
        *(0x2AB36EF256C4FA31, 0x3BF4AB7EB9B2F071, 0x600AEE4870F3CC23),
    ),
    torch.bool: (
        *(0x31DF4D66300DDC2, 0x46AF0163646BE598, 0x34A6E0B843CE315E),
        *(0x67259118831054D8, 0x7A42BC460FF5FDD5, 0x34B50B5D82B04A03),
    ),
}
"""What recorded runs have of ``counted``, by the place of a count in ``COUNTS``."""

COUNTS = (0, 1, 7, 1024, 2**13 + 5, 2**16 + 3)
"""Of the sums that are pinned: none, a single byte, less than a word and more, whole rows, and what
is too large to be copied behind others."""


def noise(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    values = torch.randn(count, generator=generator) * 3
    return values.to(dtype)


def counted(count: int, dtype: torch.dtype, first: int = 0) -> torch.Tensor:
    """Whole numbers that every type has, as far as it has such."""
    values = torch.arange(first, first + count, dtype=torch.int64) * 37 % 251 - 125
    return values.to(dtype)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_sums_are_as_recorded_runs_have_them(dtype: torch.dtype) -> None:
    found = tuple(digest([("weight", counted(n, dtype))], [1.0]) for n in COUNTS)
    assert [f"{value:#x}" for value in found] == [f"{value:#x}" for value in RECORDED[dtype]]


def test_so_are_those_of_a_stage_and_of_views() -> None:
    kinds = (
        ("weight", 9000, torch.float32),
        ("weight/step", 1, torch.float32),
        ("bias", 33, torch.bfloat16),
        ("codes", 41, torch.int8),
        ("big", 40000, torch.float32),
    )
    stage = [
        (f"layer.{i}.{name}", counted(count * (i + 1), dtype, i))
        for i in range(4)
        for name, count, dtype in kinds
    ]
    assert digest(stage, (7, 0.5, 0.25, 1.0)) == 0x68CDB94CDE4132F5
    trained = [(n, torch.nn.Parameter(t) if t.is_floating_point() else t) for n, t in stage]
    assert digest(trained, (7, 0.5, 0.25, 1.0)) == 0x68CDB94CDE4132F5
    wide = counted(300 * 301, torch.float32).reshape(300, 301)
    odd = counted(2**18 + 1, torch.int8)[1:]  # words that begin anywhere
    views = [("a", wide.T), ("b", wide[1:, 1:]), ("c", wide[3:].view(-1)[1:]), ("d", odd)]
    assert digest(views, []) == 0x1BB71D63F035FA2D
    assert digest([], []) == 0


@pytest.mark.parametrize("count", [0, 1, 8, 17, 8192, 8193, 3 * 8192 + 4091])
@pytest.mark.parametrize("first", [0, 3])
def test_the_host_sums_as_a_device_does(count: int, first: int) -> None:
    data = noise(count + first, torch.uint8)[first:]
    assert host_sums(data) == [int(part) for part in device_sums(data)]


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

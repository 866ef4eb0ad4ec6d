"""A sum over all that a stage is, which tells two states apart: for saying that a replay came out
as it was, without sending or keeping what was."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import Tensor

_WRAP, _MASK = 2**64 - 1, 2**63 - 1
"""Sums wrap around at 64 bits; a message can carry 63 of them."""

_ODD = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio: multiples of it look like noise, and an odd factor loses no bit."""

_ROW = 1024
"""Words: two plain sums, along rows and along columns, weigh each word by its place and are as fast
as memory is."""

_SMALL = 2**17
"""Bytes of a tensor up to which it is copied behind others: calling torch costs more than that."""


@torch.no_grad()
def digest(tensors: Iterable[tuple[str, Tensor]], numbers: Iterable[float]) -> int:
    """A position-weighted sum of 63 bits over the bytes of named tensors and over the numbers.
    Whole numbers wrap around, so it is the same on any device and in any order of summing."""
    named = sorted(tensors, key=lambda pair: pair[0])
    data = [_bytes(tensor) for _, tensor in named]
    small: dict[torch.device, list[Tensor]] = {}
    for part in data:
        if part.numel() <= _SMALL:
            small.setdefault(part.device, []).append(part)
    blocks = [torch.cat(parts) for parts in small.values()]
    blocks += [part for part in data if part.numel() > _SMALL]
    sums = [_sums(block) for block in blocks]
    total = 0
    for number in _read([part for parts in sums for part in parts]):
        total = _mixed(total, number)
    names = ",".join(f"{name} {tensor.dtype} {tensor.numel()}" for name, tensor in named)
    packed = b"".join(struct.pack("<d", number) for number in numbers)
    return (total + _hash(names.encode()) + _fnv(packed)) & _MASK


def _bytes(tensor: Tensor) -> Tensor:
    flat = tensor.detach().contiguous().view(-1)
    return (torch.view_as_real(flat).view(-1) if flat.is_complex() else flat).view(torch.uint8)


def _read(sums: list[Tensor]) -> list[int]:
    """From wherever they are, each device asked once."""
    values: dict[int, int] = {}
    for device in dict.fromkeys(part.device for part in sums):
        there = [place for place, part in enumerate(sums) if part.device == device]
        read = torch.stack([sums[place] for place in there]).tolist()
        values |= dict(zip(there, read, strict=True))
    return [values[place] for place in range(len(sums))]


def _sums(data: Tensor) -> list[Tensor]:
    """Whole numbers () that bytes make."""
    whole = data.numel() // 8 * 8
    head = data[:whole]
    words = (head if head.storage_offset() % 8 == 0 else head.clone()).view(torch.int64)
    rows = words[: words.numel() // _ROW * _ROW].view(-1, _ROW)
    parts = [_weighted(words[rows.numel() :]), _weighted(data[whole:].to(torch.int64))]
    if rows.numel():
        parts += [_weighted(rows.sum(0)), _weighted(rows.sum(1))]
    return parts


def _weighted(words: Tensor) -> Tensor:
    """Each of a few times an odd number of its own, ()."""
    places = torch.arange(words.numel(), dtype=torch.int64, device=words.device)
    return (words * (2 * places + 1)).sum()


def _mixed(one: int, other: int) -> int:
    return ((one ^ (other & _WRAP)) * _ODD + 1) & _WRAP


@lru_cache(maxsize=64)
def _hash(names: bytes) -> int:
    """Of the same names as in the step before."""
    return _fnv(names)


def _fnv(data: bytes) -> int:
    """FNV-1a, with another factor."""
    found = len(data)
    for byte in data:
        found = ((found ^ byte) * _ODD) & _WRAP
    return found

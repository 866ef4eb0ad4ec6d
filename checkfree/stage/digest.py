"""A sum over all that a stage is, which tells two states apart: for saying that a replay came out
as it was, without sending or keeping what was."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

_WRAP, _MASK = 2**64 - 1, 2**63 - 1
"""Sums wrap around at 64 bits; a message can carry 63 of them."""

_ODD = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio: multiples of it look like noise, and an odd factor loses no bit."""

# What follows decides the values, and recorded runs have them: it stays as it is.

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
    flat = [tensor.reshape(-1) for _, tensor in named]
    # On one device, whichever: an optimizer keeps some counts of a GPU's stage on the host.
    small = [part.to(flat[0].device) for part in flat if part.nbytes <= _SMALL]
    blocks = [_joined(small)] if small else []
    blocks += [_bytes(part) for part in flat if part.nbytes > _SMALL]
    sums = [(host_sums if block.is_cpu else device_sums)(block) for block in blocks]
    total = 0
    for number in _read([part for parts in sums for part in parts]):
        total = _mixed(total, number)
    names = ",".join(f"{name} {tensor.dtype} {tensor.numel()}" for name, tensor in named)
    packed = b"".join(struct.pack("<d", number) for number in numbers)
    return (total + _hash(names.encode()) + _fnv(packed)) & _MASK


def _joined(parts: list[Tensor]) -> Tensor:
    """The bytes of flat tensors, one behind the other."""
    alike = len({part.dtype for part in parts}) == 1
    return _bytes(torch.cat(parts)) if alike else torch.cat([_bytes(part) for part in parts])


def _bytes(flat: Tensor) -> Tensor:
    return (torch.view_as_real(flat).view(-1) if flat.is_complex() else flat).view(torch.uint8)


def _read(sums: list[int | Tensor]) -> list[int]:
    """From wherever they are, each device asked once."""
    values = {place: part for place, part in enumerate(sums) if isinstance(part, int)}
    there: dict[torch.device, dict[int, Tensor]] = {}
    for place, part in enumerate(sums):
        if isinstance(part, Tensor):
            there.setdefault(part.device, {})[place] = part
    for parts in there.values():
        values |= dict(zip(parts, torch.stack([*parts.values()]).tolist(), strict=True))
    return [values[place] for place in range(len(sums))]


def device_sums(data: Tensor) -> list[int | Tensor]:
    """Whole numbers () that bytes (n) make, wherever those are; of the short ends, and where there
    are whole rows, of their sums."""
    whole = data.numel() // 8 * 8
    head = data[:whole]
    words = (head if head.storage_offset() % 8 == 0 else head.clone()).view(torch.int64)
    rows = words[: words.numel() // _ROW * _ROW].view(-1, _ROW)
    parts = [words[rows.numel() :], data[whole:].to(torch.int64)]
    if rows.numel():
        parts += [rows.sum(0), rows.sum(1)]
    return [_weighted(part) if len(part) else 0 for part in parts]


def _weighted(words: Tensor) -> Tensor:
    """Each of a few times an odd number of its own, ()."""
    return (words * torch.arange(1, 2 * len(words), 2, device=words.device)).sum()


def host_sums(data: Tensor) -> list[int | Tensor]:
    """The same of bytes in the host's memory. numpy needs a fraction of torch's time to begin a
    sum, and less for one along columns."""
    raw = data.numpy()
    whole = len(raw) // 8 * 8
    words = raw[:whole].view(np.int64)
    rows = words[: len(words) // _ROW * _ROW].reshape(-1, _ROW)
    parts = [words[rows.size :], raw[whole:].astype(np.int64)]
    if rows.size:
        parts += [rows.sum(0), rows.sum(1)]
    odd = (np.arange(1, 2 * len(part), 2, dtype=np.int64) for part in parts)
    return [int(part @ weights) for part, weights in zip(parts, odd, strict=True)]


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

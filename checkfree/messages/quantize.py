"""Tensors to fewer bytes and back: pure functions, the same bits on every call.

What comes of a tensor are *parts*, plain tensors by name: ``values`` alone, or ``codes`` and
``scales``. A scale is the largest magnitude among the values that share it, so zeros stay zeros and
the largest value comes back exactly. Packing what was unpacked gives the same parts again.

A NaN or inf among the values of one scale makes all of them NaN: nothing is hidden from a check.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from checkfree.core.formats import (
    BF16,
    BLOCK,
    BLOCK_OF_4,
    FORMATS,
    FP16,
    FP32,
    INT4,
    INT4_ROWS,
    INT8,
    INT8_ROWS,
    in_rows,
)

VALUES, CODES, SCALES = "values", "codes", "scales"

ROWS = (INT4, INT8_ROWS, INT4_ROWS)
"""Formats in which what has no rows stays fp32."""

FLOATS = {FP32: torch.float32, BF16: torch.bfloat16, FP16: torch.float16}

EIGHT, FOUR = 127, 7
"""Largest code of 8 and of 4 bits."""

MIDDLE = 8
"""What a 4 bit code of zero is written as. So 0 is no code, and fills an odd row's last byte."""


def pack(tensor: Tensor, how: str) -> dict[str, Tensor]:
    """The parts of a floating-point tensor of any shape; contiguous, owning their memory.

    Of ``x``, at most ``largest / 254`` (8 bits) or ``largest / 14`` (4 bits) is lost, where
    ``largest`` is the scale that ``x`` shares. Raises ValueError for no format.
    """
    x = tensor.detach()
    if how in FLOATS or (how in ROWS and not in_rows(tuple(x.shape))):
        return {VALUES: _copy(x, FLOATS.get(how, torch.float32))}
    if how == INT8:
        codes, scales = _codes(_blocks(x.float(), BLOCK), EIGHT)
        return {CODES: _copy(codes.view(-1)[: x.numel()].view(x.shape)), SCALES: scales}
    if how == INT4:
        codes, scales = _codes(_blocks(x.float(), BLOCK_OF_4), FOUR)
        return {CODES: _paired(codes.view(-1)[: x.numel()].view(x.shape)), SCALES: scales}
    if how == INT8_ROWS:
        codes, scales = _codes(x.float(), EIGHT)
        return {CODES: codes, SCALES: scales}
    if how == INT4_ROWS:
        codes, scales = _codes(x.float(), FOUR)
        return {CODES: _paired(codes), SCALES: scales}
    raise ValueError(f"not a format: {how!r} (expected one of {', '.join(FORMATS)})")


def unpack(parts: Mapping[str, Tensor], how: str, dtype: torch.dtype) -> Tensor:
    """The tensor, of its own shape; it may share the memory of ``values``.

    Raises ValueError for parts that ``pack`` doesn't make.
    """
    if parts.keys() == {VALUES}:
        return parts[VALUES].to(dtype)
    if parts.keys() != {CODES, SCALES} or how in FLOATS:
        raise ValueError(f"not what {how} is made of: {', '.join(parts) or 'nothing'}")
    codes, scales = parts[CODES], parts[SCALES]
    if how in ROWS and not in_rows(tuple(codes.shape)):
        raise ValueError(f"codes {list(codes.shape)}: expected rows")
    if how == INT4_ROWS:
        _agree(codes, scales, torch.uint8, codes.shape[:-1])
        return _values(_unpaired(codes), scales, FOUR).to(dtype)
    if how == INT8_ROWS:
        _agree(codes, scales, torch.int8, codes.shape[:-1])
        return _values(codes, scales, EIGHT).to(dtype)
    if how == INT8:
        _agree(codes, scales, torch.int8, _scales(codes, BLOCK))
        return _in_blocks(codes, scales, BLOCK, EIGHT).to(dtype)
    if how == INT4:
        found = _unpaired(codes) if codes.dtype == torch.uint8 else codes
        _agree(codes, scales, torch.uint8, _scales(found, BLOCK_OF_4))
        return _in_blocks(found, scales, BLOCK_OF_4, FOUR).to(dtype)
    raise ValueError(f"not a format: {how!r} (expected one of {', '.join(FORMATS)})")


def _copy(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return tensor.to(dtype or tensor.dtype, copy=True, memory_format=torch.contiguous_format)


def _blocks(tensor: Tensor, size: int) -> Tensor:
    """All values in rows of ``size``, the last filled up with zeros."""
    flat = tensor.reshape(-1)
    return pad(flat, (0, -flat.numel() % size)).view(-1, size)


def _scales(codes: Tensor, size: int) -> tuple[int]:
    """The shape of the scales of codes in blocks of ``size``."""
    return (-(-codes.numel() // size),)


def _in_blocks(codes: Tensor, scales: Tensor, size: int, most: int) -> Tensor:
    values = _values(_blocks(codes, size), scales, most).view(-1)[: codes.numel()]
    return values.view(codes.shape)


def _codes(rows: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Whole numbers of ``-most … most``, int8, and the scale of each row."""
    largest = rows.abs().amax(dim=-1)
    scales = torch.where(largest.isfinite(), largest, torch.nan)
    divisor = torch.where(largest == 0, 1.0, scales).unsqueeze(-1)
    codes = rows.div(divisor).mul_(most).round_().nan_to_num_(0.0)
    return codes.to(torch.int8, memory_format=torch.contiguous_format), scales


def _values(codes: Tensor, scales: Tensor, most: int) -> Tensor:
    """Divided before it is multiplied: no finite scale overflows."""
    return codes.float().div_(most).mul_(scales.unsqueeze(-1))


def _paired(codes: Tensor) -> Tensor:
    """Two codes in a byte, the first in its low half."""
    written = (codes + MIDDLE).to(torch.uint8)
    written = pad(written, (0, written.shape[-1] % 2))
    return written[..., 0::2] | written[..., 1::2] << 4


def _unpaired(written: Tensor) -> Tensor:
    """Codes again: a row is odd where its last half byte holds no code."""
    both = torch.stack((written & 15, written >> 4), dim=-1).flatten(-2)
    odd = not bool(both[..., -1].any())
    return (both[..., :-1] if odd else both).to(torch.int8) - MIDDLE


def _agree(
    codes: Tensor, scales: Tensor, dtype: torch.dtype, shape: torch.Size | tuple[int, ...]
) -> None:
    if codes.dtype != dtype or scales.dtype != torch.float32 or scales.shape != shape:
        raise ValueError(
            f"codes {codes.dtype} {list(codes.shape)} with scales {scales.dtype} "
            f"{list(scales.shape)}: expected {dtype} with torch.float32 {list(shape)}"
        )

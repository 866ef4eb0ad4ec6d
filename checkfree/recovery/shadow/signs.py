"""What changed in a tensor, in one bit a value and one magnitude a block, and back: pure functions.

    change    +3 -1 +2 -2 | +5 -5 +5 -5      in blocks of 256, counted in memory order
    signs      +  -  +  - |  +  -  +  -
    comes back +2 -2 +2 -2 | +5 -5 +5 -5     times the mean magnitude of the block

No magnitude leaves less of a block behind, and whatever is left a next change can have: of what
remains between two tensors, each removes more than one 257th of the square of every block, and
nearly two thirds where it is spread as in a Gaussian.

A NaN or inf in a block makes all of its values NaN or inf: nothing is hidden from a check.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from checkfree.core.formats import SIGN_BLOCK
from checkfree.messages.quantize import CODES, SCALES

EIGHT = 8
"""Signs in a byte, the first in its lowest bit; 1 is minus."""

_PLACES = torch.arange(EIGHT, dtype=torch.uint8)

_SIGNS = 1 - 2 * (torch.arange(256).unsqueeze(-1) >> torch.arange(EIGHT) & 1).float()
"""Of each byte, as numbers: to look them up takes a tenth of the time of working them out."""


def pack_change(change: Tensor) -> dict[str, Tensor]:
    """The parts of a change of any shape: ``codes`` (uint8, one dimension, eight signs each) and
    ``scales`` (bf16, one a block). Their own memory."""
    flat = change.detach().reshape(-1).float()
    blocks = pad(flat, (0, -len(flat) % SIGN_BLOCK)).view(-1, SIGN_BLOCK)
    counts = torch.full((len(blocks),), SIGN_BLOCK, dtype=torch.float32)
    counts[-1:] -= blocks.numel() - len(flat)  # what the last one was filled up with counts nothing
    minus = (blocks < 0).view(-1, EIGHT).to(torch.uint8) << _PLACES
    codes = minus.sum(-1, dtype=torch.uint8)[: math.ceil(len(flat) / EIGHT)]
    return {CODES: codes.clone(), SCALES: blocks.abs().sum(-1).div(counts).bfloat16()}


def unpack_change(parts: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
    """The change of a tensor of that shape, in fp32. Raises ValueError for other parts than
    ``pack_change`` makes of one."""
    count = shape.numel()
    _agree(parts, CODES, torch.uint8, math.ceil(count / EIGHT))
    _agree(parts, SCALES, torch.bfloat16, math.ceil(count / SIGN_BLOCK))
    if len(parts) != 2:
        raise ValueError(f"not what signs are made of: {', '.join(parts)}")
    codes = pad(parts[CODES], (0, -len(parts[CODES]) % (SIGN_BLOCK // EIGHT)))
    signs = _SIGNS.index_select(0, codes.int()).view(-1, SIGN_BLOCK)
    return signs.mul_(parts[SCALES].float().unsqueeze(-1)).view(-1)[:count].view(shape)


def _agree(parts: Mapping[str, Tensor], name: str, dtype: torch.dtype, count: int) -> None:
    found = parts.get(name)
    if found is None or found.dtype != dtype or found.shape != (count,):
        got = "nothing" if found is None else f"{found.dtype} {list(found.shape)}"
        raise ValueError(f"signs with {name} of {got}: expected {dtype} [{count}]")

"""Tensors as they come back from very few bits."""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = (-1.51, -0.4528, 0.4528, 1.51)
"""Of two bits, for a Gaussian of deviation 1 (Lloyd and Max)."""


def one_bit(change: Tensor, block: int) -> Tensor:
    """As it comes back, with a mean size per ``block`` numbers."""
    if change.ndim < 2:
        return change
    blocks = change.reshape(-1, block)
    return (blocks.sign() * blocks.abs().mean(-1, keepdim=True)).reshape(change.shape)


def two_bits(change: Tensor) -> Tensor:
    """As it comes back, with a deviation per row."""
    if change.ndim < 2:
        return change
    deviation = change.square().mean(-1, keepdim=True).sqrt()
    levels = torch.tensor(LEVELS)
    places = (change / deviation.clamp_min(1e-20)).unsqueeze(-1).sub(levels).abs().argmin(-1)
    return levels[places] * deviation


def by_rows_and_columns(squares: Tensor) -> Tensor:
    """What the means of its rows and columns tell of it (Adafactor)."""
    if squares.ndim < 2:
        return squares.clone()
    rows, columns = squares.mean(-1, keepdim=True), squares.mean(-2, keepdim=True)
    return rows * columns / rows.mean(-2, keepdim=True).clamp_min(1e-30)

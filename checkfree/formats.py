"""How numbers may be written down to be sent or kept: names, and bytes. No tensors.

==========  ====================================================================  ===============
name        what is written                                                       bytes of a value
==========  ====================================================================  ===============
fp32        32 bit floats                                                         4
bf16, fp16  16 bit floats; beyond 65504, fp16 is inf                              2
int8        whole numbers of -127 … 127, times the largest of ``BLOCK`` values    1 + 4 / BLOCK
int8_rows   the same, times the largest of a row (along the last dimension)       1 + 4 / row
int4_rows   whole numbers of -7 … 7, two in a byte, times the largest of a row    ½ + 4 / row
==========  ====================================================================  ===============

``int8`` is meant for activations and gradients, the two of rows for weights. In those of rows, what
has fewer than two dimensions stays fp32: norms and biases, a fraction of a percent of the bytes.
"""

from __future__ import annotations

import math

FP32, BF16, FP16 = "fp32", "bf16", "fp16"
INT8, INT8_ROWS, INT4_ROWS = "int8", "int8_rows", "int4_rows"

WIRE = (FP32, BF16, FP16, INT8)
"""Those that activations and gradients may be sent in."""

FORMATS = (*WIRE, INT8_ROWS, INT4_ROWS)

BLOCK = 256
"""Values that share one scale in ``int8``, counted in memory order."""

SCALE_BYTES = 4

_FLOATS = {FP32: 4, BF16: 2, FP16: 2}


def bytes_of(shape: tuple[int, ...], how: str) -> int:
    """What a tensor of that shape takes, its scales included. Raises ValueError for no format."""
    if how not in FORMATS:
        raise ValueError(f"not a format: {how!r} (expected one of {', '.join(FORMATS)})")
    values = math.prod(shape)
    if how in _FLOATS:
        return _FLOATS[how] * values
    if how == INT8:
        return values + SCALE_BYTES * math.ceil(values / BLOCK)
    if not in_rows(shape):
        return _FLOATS[FP32] * values
    rows, wide = values // shape[-1], shape[-1]
    return rows * (SCALE_BYTES + (wide if how == INT8_ROWS else math.ceil(wide / 2)))


def in_rows(shape: tuple[int, ...]) -> bool:
    """Whether the formats of rows write it in rows: the rest stays fp32."""
    return len(shape) > 1 and math.prod(shape) > 0

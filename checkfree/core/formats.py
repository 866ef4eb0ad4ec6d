"""How numbers may be written down to be sent or kept: names, and bytes. No tensors.

==========  ====================================================================  ===============
name        what is written                                                       bytes of a value
==========  ====================================================================  ===============
fp32        32 bit floats                                                         4
bf16, fp16  16 bit floats; beyond 65504, fp16 is inf                              2
int8        whole numbers of -127 … 127, times the largest of ``BLOCK`` values    1 + 4 / BLOCK
int4        whole numbers of -7 … 7, two in a byte, times that of ``BLOCK_OF_4``  ½ + 4 / 64
int8_rows   the same, times the largest of a row (along the last dimension)       1 + 4 / row
int4_rows   whole numbers of -7 … 7, two in a byte, times the largest of a row    ½ + 4 / row
signs       of what changed: signs, times its mean magnitude over ``SIGN_BLOCK``  ⅛ + 2 / 256
==========  ====================================================================  ===============

``int8`` and ``int4`` are meant for activations and gradients, the last three for weights. In these
three and ``int4``, what has fewer than two dimensions stays fp32: of weights norms and biases, a
fraction of a percent of the bytes.
"""

from __future__ import annotations

import math

FP32, BF16, FP16 = "fp32", "bf16", "fp16"
INT8, INT4, INT8_ROWS, INT4_ROWS = "int8", "int4", "int8_rows", "int4_rows"
SIGNS = "signs"

WIRE = (FP32, BF16, FP16, INT8, INT4)
"""Those that activations and gradients may be sent in."""

FORMATS = (*WIRE, INT8_ROWS, INT4_ROWS)
"""Those that a tensor comes back from by itself; ``signs`` needs the one that changed."""

BLOCK = 256
"""Values that share one scale in ``int8``, counted in memory order."""

BLOCK_OF_4 = 64
"""The same in ``int4``: fewer, for with seven steps to the largest value an outlier costs more."""

BF16_WEIGHTS = "bf16_weights"
PRECISIONS = ("fp32", "bf16", BF16_WEIGHTS, "fp64")
"""In which a run may compute."""

SCALE_BYTES = 4

SIGN_BLOCK = 256
"""Values that share one magnitude in ``signs``, counted in memory order."""

MAGNITUDE_BYTES = 2

_FLOATS = {FP32: 4, BF16: 2, FP16: 2}


def bytes_of(shape: tuple[int, ...], how: str) -> int:
    """What a tensor of that shape takes, its scales included. Raises ValueError for no format."""
    if how not in (*FORMATS, SIGNS):
        raise ValueError(f"not a format: {how!r} (expected one of {', '.join(FORMATS)}, {SIGNS})")
    values = math.prod(shape)
    if how in _FLOATS:
        return _FLOATS[how] * values
    if how == INT8:
        return values + SCALE_BYTES * math.ceil(values / BLOCK)
    if not in_rows(shape):
        return _FLOATS[FP32] * values
    if how == INT4:
        codes = values // shape[-1] * math.ceil(shape[-1] / 2)
        return codes + SCALE_BYTES * math.ceil(values / BLOCK_OF_4)
    if how == SIGNS:
        return math.ceil(values / 8) + MAGNITUDE_BYTES * math.ceil(values / SIGN_BLOCK)
    rows, wide = values // shape[-1], shape[-1]
    return rows * (SCALE_BYTES + (wide if how == INT8_ROWS else math.ceil(wide / 2)))


def in_rows(shape: tuple[int, ...]) -> bool:
    """Whether ``int4`` and the formats for weights write it so: the rest stays fp32."""
    return len(shape) > 1 and math.prod(shape) > 0

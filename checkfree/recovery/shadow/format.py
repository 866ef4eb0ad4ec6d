"""A stage's weights as a shadow has them: quantized, and nothing else that a stage is."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import torch
from torch import Tensor

from checkfree.messages.quantize import pack, unpack
from checkfree.messages.tensors import StageState


def pack_state(state: StageState, how: str) -> StageState:
    """The weights of ``state`` written as ``how`` says; its moments and buffers stay behind."""
    parts = {
        f"{name}/{part}": written
        for name, param in state.params.items()
        for part, written in pack(param, how).items()
    }
    return replace(state, params=parts, buffers={}, moments={}, packed=how)


def unpack_state(state: StageState, dtype: torch.dtype = torch.float32) -> StageState:
    """The weights again. Raises ValueError for parts that don't fit together."""
    params = {name: unpack(found, state.packed, dtype) for name, found in parts_of(state).items()}
    return replace(state, params=params, packed="")


def parts_of(state: StageState) -> dict[str, dict[str, Tensor]]:
    """Of each weight what it is written as, by part."""
    parts: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in state.params.items():
        name, _, part = key.rpartition("/")
        parts[name][part] = tensor
    return dict(parts)

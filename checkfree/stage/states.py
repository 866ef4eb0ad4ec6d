"""Whether a state fits a stage, and copies that share no memory with it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from checkfree.messages.tensors import StageState


def check_fit(
    state: StageState, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor]
) -> None:
    """Raise ValueError unless ``state`` has the names and shapes of these."""
    own, got = _shapes(params), _shapes(state.params)
    if state.buffers:
        own, got = own | _shapes(buffers), got | _shapes(state.buffers)
    strange = [key for key, moment in state.moments.items() if not _suits(key, moment, params)]
    if own != got or strange:
        odd = sorted(own ^ got)[:4] or sorted(strange)[:4]
        raise ValueError(f"the state does not fit the stage: {odd} differ")


def _shapes(tensors: Mapping[str, Tensor]) -> set[tuple[str, tuple[int, ...]]]:
    return {(name, tuple(tensor.shape)) for name, tensor in tensors.items()}


def _suits(key: str, moment: Tensor, params: Mapping[str, Tensor]) -> bool:
    """A moment is named after its parameter and has its shape, or is a number."""
    name, _, _ = key.rpartition("/")
    return name in params and moment.shape in ((), params[name].shape)


def copied(tensor: Tensor) -> Tensor:
    """Contiguous, and its own memory."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)

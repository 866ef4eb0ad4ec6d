"""What of a stage is learnt. Frozen parameters, whole numbers and buffers are constants: a stage
has those it was made with, and whoever stands in for it is made with the same. So a rule that makes
a stage of others, or of a shadow, is given what is learnt alone, as real floating point numbers;
what it makes gets the types of the stage, and its constants.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from checkfree.messages.tensors import StageState

COMPUTED = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
"""Types that layers compute with, and activations have."""

LEARNABLE = COMPUTED | {torch.complex64}
"""Types of parameters that optimizers step, and repairs make."""


def without(state: StageState, constants: Collection[str]) -> StageState:
    """A state, packed or not, that has neither its buffers nor the parameters of these names."""
    if not constants:
        return replace(state, buffers={})
    packed = bool(state.packed)

    def left(tensors: Mapping[str, Tensor], *, parts: bool) -> dict[str, Tensor]:
        named = {key: key.rpartition("/")[0] if parts else key for key in tensors}
        return {key: tensor for key, tensor in tensors.items() if named[key] not in constants}

    return replace(
        state,
        params=left(state.params, parts=packed),
        buffers={},
        moments=left(state.moments, parts=True),
        heading=left(state.heading, parts=True),
    )


def constants_of(state: StageState, constants: Collection[str]) -> StageState:
    """The rest of a state that is not packed: its buffers and the parameters of these names."""
    params = {name: param for name, param in state.params.items() if name in constants}
    return StageState(params, state.buffers, {}, state.version)


def real(state: StageState) -> StageState:
    """Its weights as real numbers: a complex (…, n) becomes (…, 2n), a complex number (2)."""
    return replace(state, params={name: _real(param) for name, param in state.params.items()})


def learnable(state: StageState) -> StageState:
    """What any stage could have learnt of these weights, as real numbers: what a shadow is of."""
    fixed = {name for name, param in state.params.items() if param.dtype not in LEARNABLE}
    return real(without(state, fixed))


def in_types_of(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor as its namesake in ``own`` is typed; those without one as they are."""
    return {
        name: _typed(tensor, own[name]) if name in own else tensor
        for name, tensor in tensors.items()
    }


def _real(tensor: Tensor) -> Tensor:
    if not tensor.is_complex():
        return tensor
    pairs = torch.view_as_real(tensor)
    return pairs.flatten(-2) if tensor.ndim else pairs


def _typed(tensor: Tensor, own: Tensor) -> Tensor:
    if tensor.dtype == own.dtype:
        return tensor
    if own.is_complex():
        if tensor.is_complex() or tensor.numel() != 2 * own.numel():
            return tensor.to(own.dtype)
        return torch.view_as_complex(tensor.to(own.real.dtype).reshape(*own.shape, 2))
    if not (own.is_floating_point() and tensor.is_floating_point()):
        return tensor.to(own.dtype)
    most = torch.finfo(own.dtype).max
    if most < torch.finfo(tensor.dtype).max:  # a shadow may have been rounded up beyond that
        tensor = torch.where(tensor.isfinite(), tensor.clamp(-most, most), tensor)
    return tensor.to(own.dtype)

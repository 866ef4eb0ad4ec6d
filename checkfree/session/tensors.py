"""Whether the tensors of a module can be put aside, sent and made anew: looked at before it trains.
Nearly all can, whatever their types and numbers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from checkfree.core.errors import BadInput
from checkfree.messages.limits import DTYPES
from checkfree.stage.learnt import LEARNABLE

HELD = frozenset(getattr(torch, name) for name in DTYPES)

LARGEST = torch.finfo(torch.bfloat16).max
"""Of a number that a shadow can hold: 3.39e38, nearly all that float32 has."""

_AS_REAL = "keep real numbers, of which torch.view_as_complex makes complex ones in forward"


def check_tensors(stage: int, module: nn.Module) -> None:
    """Raise BadInput, with the mend, for a parameter or buffer of ``stage`` that could not be given
    back if it were lost. A buffer that is not persistent is never sent or saved."""
    for told, tensor in _kept(stage, module):
        learns = isinstance(tensor, nn.Parameter) and tensor.requires_grad
        if tensor.layout is not torch.strided:
            raise BadInput(
                f"{told} is sparse, and no state holds that: make it dense, or a buffer with "
                "persistent=False"
            )
        if tensor.dtype not in HELD:
            other = _AS_REAL if tensor.is_complex() else "keep it as another type"
            raise BadInput(
                f"{told} is {_type(tensor)}, and no state holds that: {other}, or make it a buffer "
                "with persistent=False"
            )
        if learns and tensor.dtype not in LEARNABLE:
            raise BadInput(
                f"{told} trains in {_type(tensor)}, in which nothing can be averaged: train it in "
                "bfloat16, or freeze it with requires_grad=False"
            )
        if learns and not tensor.is_meta and not bool(tensor.isfinite().all()):
            raise BadInput(
                f"{told} trains and is not finite, so nothing can be averaged with it: freeze it "
                "with requires_grad=False, or make it a buffer"
            )


def check_range(stage: int, module: nn.Module) -> None:
    """Raise BadInput for a parameter of ``stage`` that trains and is larger than a shadow can tell:
    where there are shadows."""
    for told, tensor in _kept(stage, module):
        learns = isinstance(tensor, nn.Parameter) and tensor.requires_grad
        largest = float(tensor.detach().abs().max()) if learns and tensor.numel() else 0.0
        if largest > LARGEST:
            raise BadInput(
                f"{told} goes to {largest:.3g}, and shadows hold at most {LARGEST:.3g}: begin with "
                "less, or take a recovery without shadows, as checkfree_plus or checkpoint"
            )


def _kept(stage: int, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a state has of it, each by how it is told of."""
    saved = module.state_dict(keep_vars=True).keys()
    for path, layer in module.named_modules():
        where = f"stage {stage}: {path or 'the module'} ({type(layer).__name__})"
        for name, param in layer.named_parameters(recurse=False):
            yield f"{where}: parameter {name}", param
        for name, buffer in layer.named_buffers(recurse=False):
            if (f"{path}.{name}" if path else name) in saved:
                yield f"{where}: buffer {name}", buffer


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")

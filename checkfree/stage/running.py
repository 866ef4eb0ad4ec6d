"""What goes on around a forward: its inputs' device, its random numbers, and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from checkfree.core.errors import BadInput
from checkfree.stage.conditions import Part
from checkfree.stage.learnt import COMPUTED


def check_output(name: str, part: Part, y: Any) -> None:
    """Raise BadInput if ``y`` is not what a ``part`` of the module ``name`` has to return."""
    if not isinstance(y, Tensor):
        raise BadInput(f"{name} returns a {type(y).__name__} for {part.value}: return a Tensor")
    if y.dtype not in COMPUTED:
        raise BadInput(f"{name} returns {y.dtype} for {part.value}: return floating point numbers")
    if part is Part.HEAD and y.ndim:
        raise BadInput(f"loss of {name} has shape {list(y.shape)}, expected (): return a mean")


def recomputed(run: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """Computed again in the backward, so that nothing inside is kept."""
    result: Tensor = checkpoint(run, *inputs, use_reentrant=False)
    return result


def spread(module: nn.Module) -> nn.Module:
    """``module``, with memory for each of its values, in the order in which they are saved: what
    ``expand`` made can't be written to, and what is transposed or channels-last not saved."""
    for layer in module.modules():
        for name, buffer in layer._buffers.items():
            if buffer is not None and _is_other(buffer):
                layer._buffers[name] = buffer.contiguous()
        for param in layer.parameters(recurse=False):
            if _is_other(param):
                param.data = param.data.contiguous()
    return module


def _is_other(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_contiguous()


def owned(y: Tensor) -> Tensor:
    """A view of something larger would take all of it along."""
    whole = y.untyped_storage().nbytes() == y.numel() * y.element_size()
    return y if y.is_contiguous() and whole else y.contiguous().clone()


def to_device(batch: Any, device: torch.device) -> Any:
    """Tensors, also those in tuples, lists and mappings."""
    return _each(batch, lambda tensor: tensor.to(device))


def in_type(batch: Any, dtype: torch.dtype) -> Any:
    """Those of fp32 as ``dtype``; token numbers, and all else, as they are."""
    return _each(
        batch, lambda tensor: tensor.to(dtype) if tensor.dtype == torch.float32 else tensor
    )


def _each(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    match batch:
        case Tensor():
            return change(batch)
        case tuple() | list():
            changed = [_each(item, change) for item in batch]
            return type(batch)(*changed) if hasattr(batch, "_fields") else type(batch)(changed)
        case dict():
            return {key: _each(item, change) for key, item in batch.items()}
        case _:
            return batch


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators of CPU and device, and put them back as they were after."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        index = device.index if device.index is not None else torch.cuda.current_device()
        generators.append(torch.cuda.default_generators[index])
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)

"""Weights in bf16 that a module computes with, rounded from fp32 ones that train, their masters
("Mixed precision training", arXiv 1710.03740, section 3.1).

A step is often less than half of the last bit that bf16 has of a weight: added to the rounded
weight it is nothing, added to the master it counts. So the optimizer knows masters alone, and they
are all that a stage is; what it computes with is made of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Masters:
    """Parameters of a module that it computes with ``rounded``, in their order; each of ``masters``
    is what the module had in its place."""

    masters: Sequence[nn.Parameter]
    rounded: Sequence[nn.Parameter]

    @torch.no_grad()
    def round(self) -> None:
        """Compute with what the masters are by now."""
        torch._foreach_copy_([*self.rounded], [*self.masters])

    def add_up(self) -> None:
        """The gradients of one microbatch that autograd did not add by itself."""
        for master, param in zip(self.masters, self.rounded, strict=True):
            _add_up(master, param)

    def put_back(self, module: nn.Module) -> None:
        """Have ``module`` compute with the masters themselves."""
        _replace(module, dict(zip(self.rounded, self.masters, strict=True)))


def rounded(module: nn.Module, dtype: torch.dtype, kept: Collection[str]) -> Masters:
    """Have ``module`` compute with its fp32 parameters as ``dtype``, but for those of which the
    names are ``kept``. Parameters of other types and buffers stay as they are, as under FSDP's
    ``param_dtype``. Gradients of each microbatch are added up in those of the masters, in fp32."""
    named = [(name, param) for name, param in module.named_parameters() if name not in kept]
    masters = [param for _, param in named if param.dtype == torch.float32]
    made = [nn.Parameter(param.detach().to(dtype), param.requires_grad) for param in masters]
    for master, param in zip(masters, made, strict=True):
        if param.requires_grad:
            hook = partial(_add_up, master)
            param.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
    _replace(module, dict(zip(masters, made, strict=True)))
    return Masters(masters, made)


def _add_up(master: nn.Parameter, param: Tensor) -> None:
    """The gradient of one microbatch, which is freed."""
    gradient, param.grad = param.grad, None
    if gradient is not None:
        wide = master.grad
        master.grad = gradient.to(master.dtype) if wide is None else wide.add_(gradient)


def _replace(module: nn.Module, others: dict[nn.Parameter, nn.Parameter]) -> None:
    """Parameters, wherever layers of ``module`` have them."""
    for layer in module.modules():
        for name, param in layer._parameters.items():
            if param is not None and param in others:
                layer._parameters[name] = others[param]

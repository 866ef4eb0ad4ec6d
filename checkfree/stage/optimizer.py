"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from checkfree.core.config import OptimizerConfig
from checkfree.core.rates import SGD

ADAMS: dict[str, type[torch.optim.Adam]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def make_optimizer(
    config: OptimizerConfig, params: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """Fused where torch has it for the device and type of every parameter."""
    params = list(params)
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in params)
    betas = (config.betas[0], config.betas[1])
    if config.name == SGD:
        return torch.optim.SGD(
            params,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=fused or None,
        )
    return ADAMS[config.name](
        params,
        lr=config.lr,
        betas=betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=fused or None,
    )

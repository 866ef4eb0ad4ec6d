"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from checkfree.config import OptimizerConfig
from checkfree.errors import BadInput

ADAMS: dict[str, type[torch.optim.Adam]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
SGD = "sgd"
OPTIMIZERS = (*ADAMS, SGD)
LR_SCHEDULES = ("constant", "cosine", "wsd")


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


def lr_at(config: OptimizerConfig, iteration: int, iterations: int) -> float:
    """Learning rate of step ``iteration`` (from 0) of a run of ``iterations`` steps."""
    if iteration < config.warmup:
        return config.lr * (iteration + 1) / config.warmup
    if config.schedule == "cosine":
        span = max(1, iterations - config.warmup)
        done = min(1.0, (iteration - config.warmup) / span)
        return config.lr * (
            config.min_lr + (1 - config.min_lr) * 0.5 * (1 + math.cos(math.pi * done))
        )
    if config.schedule == "wsd":
        decay = config.decay if config.decay is not None else iterations // 5
        left = iterations - iteration
        if left < decay:
            return config.lr * (config.min_lr + (1 - config.min_lr) * left / decay)
    return config.lr


def check_optimizer(config: OptimizerConfig) -> None:
    """Raise BadInput for values that no optimizer can take."""
    if config.name not in OPTIMIZERS:
        raise BadInput(f"optimizer.name={config.name}: expected one of {', '.join(OPTIMIZERS)}")
    if config.schedule not in LR_SCHEDULES:
        expected = ", ".join(LR_SCHEDULES)
        raise BadInput(f"optimizer.schedule={config.schedule}: expected one of {expected}")
    if config.clip_over not in ("stage", "global"):
        raise BadInput(f"optimizer.clip_over={config.clip_over}: expected stage or global")
    for name, value, low, high in (
        ("lr", config.lr, 0.0, math.inf),
        ("eps", config.eps, 0.0, math.inf),
        ("weight_decay", config.weight_decay, 0.0, math.inf),
        ("min_lr", config.min_lr, 0.0, 1.0),
        ("warmup", config.warmup, 0, math.inf),
        ("decay", config.decay or 0, 0, math.inf),
        ("clip", 1.0 if config.clip is None else config.clip, 0.0, math.inf),
        ("momentum", config.momentum, 0.0, 0.999999999),
        ("betas[0]", config.betas[0], 0.0, 0.999999999),
        ("betas[1]", config.betas[1], 0.0, 0.999999999),
    ):
        if not low <= value <= high or not math.isfinite(value):
            raise BadInput(f"optimizer.{name}={value}: expected a number in [{low}, {high}]")
    if config.clip == 0:
        raise BadInput("optimizer.clip=0 would stop all training: give a norm, or null for none")

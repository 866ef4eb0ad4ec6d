"""Learning-rate schedules by name, and the values that an optimizer can have. No torch."""

from __future__ import annotations

import math

from checkfree.core.config import OptimizerConfig
from checkfree.core.errors import BadInput, one_of

SGD, MUON = "sgd", "muon"
OPTIMIZERS = ("adam", "adamw", SGD, MUON)
USUAL_LR = {SGD: 1.0, "adam": 0.1, "adamw": 0.1, MUON: 0.1}
"""The largest rates that anything is trained with: half of more is still too much."""
USUAL_MOMENTUM = {SGD: 0.9, MUON: 0.95}
MOMENTS = {"adamw": "adam"}
"""Optimizers that remember what another does, and which."""
LR_SCHEDULES = ("constant", "cosine", "wsd")


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


def lower_lr(config: OptimizerConfig) -> float:
    """What to try where ``config.lr`` was too much: half of it; the default, if it is absurd."""
    return config.lr / 2 if config.lr <= USUAL_LR[config.name] else OptimizerConfig.lr


def momentum_of(config: OptimizerConfig) -> float:
    """As configured, or the usual one; 0 for an optimizer that has none."""
    if config.momentum is not None:
        return config.momentum
    return USUAL_MOMENTUM.get(config.name, 0.0)


def check_optimizer(config: OptimizerConfig) -> None:
    """Raise BadInput for values that no optimizer can take."""
    one_of("optimizer.name", config.name, OPTIMIZERS)
    one_of("optimizer.schedule", config.schedule, LR_SCHEDULES)
    one_of("optimizer.clip_over", config.clip_over, ("stage", "global"))
    for name, value, low, high in (
        ("lr", config.lr, 0.0, math.inf),
        ("eps", config.eps, 0.0, math.inf),
        ("weight_decay", config.weight_decay, 0.0, math.inf),
        ("min_lr", config.min_lr, 0.0, 1.0),
        ("warmup", config.warmup, 0, math.inf),
        ("decay", config.decay or 0, 0, math.inf),
        ("clip", 1.0 if config.clip is None else config.clip, 0.0, math.inf),
        ("momentum", config.momentum or 0.0, 0.0, 0.999999999),
        ("betas[0]", config.betas[0], 0.0, 0.999999999),
        ("betas[1]", config.betas[1], 0.0, 0.999999999),
    ):
        if not low <= value <= high or not math.isfinite(value):
            raise BadInput(f"optimizer.{name}={value}: expected a number in [{low}, {high}]")
    if config.clip == 0:
        raise BadInput("optimizer.clip=0 would stop all training: give a norm, or null for none")

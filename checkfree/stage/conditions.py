"""What a stage is told: how it computes and steps, and which share of it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from torch import nn

from checkfree.stage.offload import Offloading

CPU = torch.device("cpu")


class Part(Enum):
    """Which share of a stage a hop runs. Only stage 0 has an EMBED and a HEAD."""

    EMBED = "embed"
    BODY = "body"
    HEAD = "head"


@dataclass(frozen=True)
class Conditions:
    """How stages compute and step; the same for all stages of a run but for the device."""

    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    lr: Callable[[int], float]
    device: torch.device = CPU
    autocast: torch.dtype | None = None
    weights: torch.dtype | None = None
    """Compute with weights of this type, rounded from those that train; None: with those."""
    recompute: bool = False
    offload: Offloading | None = None
    """Move away what is stashed; None: keep it, or have it computed again."""
    compile: bool = False
    """torch.compile the blocks of a body."""
    lr_scale_decay: float = 1.0
    """Factor per step on the excess of ``lr_scale`` over 1."""
    coarse_steps: bool = False
    """Its optimizer finds directions in bf16, as Muon does, so roundings of gradients show in steps
    as thousandths."""

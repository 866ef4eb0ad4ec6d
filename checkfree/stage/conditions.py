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
    """Which share of a stage a hop runs. Only stage 0 has an EMBED and a HEAD; a body stage of two
    chunks has a FIRST and a SECOND, and no BODY."""

    EMBED = "embed"
    BODY = "body"
    FIRST = "first"
    SECOND = "second"
    HEAD = "head"

    @property
    def ends(self) -> bool:
        """It reads what the pipeline is fed."""
        return self in (Part.EMBED, Part.HEAD)


def body_parts(chunks: int) -> tuple[Part, ...]:
    """All that a body stage of so many chunks runs of a microbatch, in turn."""
    return (Part.BODY,) if chunks == 1 else (Part.FIRST, Part.SECOND)


def body_part(hop: int, stages: int, chunks: int) -> Part:
    """What a hop of 1 and more runs of a body stage, one of ``stages`` that each have so many
    ``chunks``."""
    return body_parts(chunks)[hop > stages if chunks > 1 else 0]


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

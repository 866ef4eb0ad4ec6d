"""Stages to train by hand, and when two states are the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from checkfree.messages.tensors import StageState
from checkfree.stage import Conditions, Part, Stage
from tests.tiny import WIDTH, Body, same_states


def same(one: StageState, other: StageState) -> bool:
    """Bit for bit, and the numbers that no tensor holds."""
    numbers = [replace(s, params={}, buffers={}, moments={}) for s in (one, other)]
    return numbers[0] == numbers[1] and same_states({"": one}, {"": other})


def conditions(lr: float = 0.1, **more: Any) -> Conditions:
    """Adam at a constant rate."""
    return Conditions(lambda params: torch.optim.Adam(params, lr=lr), lambda i: lr, **more)


def body(dropout: float = 0.0, seed: int = 0) -> Body:
    torch.manual_seed(seed)
    return Body(dropout)


def tensor(seed: int, *shape: int) -> Tensor:
    """(3, WIDTH) unless told."""
    return torch.randn(*(shape or (3, WIDTH)), generator=torch.Generator().manual_seed(seed))


def train(stage: Stage, iteration: int, clip: float = 1.0) -> None:
    """One step on two microbatches."""
    for m in range(2):
        stage.forward((m, 1), Part.BODY, tensor(10 * iteration + m), None, seed=m)
        stage.backward((m, 1), tensor(10 * iteration + m + 5))
    stage.reduced()
    stage.step(iteration, clip)

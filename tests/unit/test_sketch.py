"""Sketches of models: every shape, no memory, and no compiler loaded for them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from checkfree.models.config import ModelConfig
from checkfree.models.families import WRITTEN_HERE, family
from checkfree.session.sketch import sketched

SMALL = ModelConfig(blocks=2, width=16, heads=2, vocabulary=32, context=8)

SKETCH = """
import sys
from checkfree.session.blueprint import of_family
from checkfree.core.config import Config
of_family(Config(), 256)
sys.exit("torch._dynamo" in sys.modules)
"""


def shapes(module: nn.Module) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (p.shape, p.dtype) for name, p in module.named_parameters()}


@pytest.mark.parametrize("name", WRITTEN_HERE)
@pytest.mark.parametrize("stage", [0, 1])
def test_it_is_the_stage_without_its_memory(name: str, stage: int) -> None:
    with sketched():
        sketch = family(name).stage(SMALL, stage, 2)
    assert shapes(sketch) == shapes(family(name).stage(SMALL, stage, 2))
    assert all(p.is_meta for p in sketch.parameters())


def test_torchs_own_layers_can_be_sketched_too() -> None:
    with sketched():
        made = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Embedding(5, 3))
    assert all(p.is_meta for p in made.parameters())


def test_what_is_made_afterwards_is_drawn() -> None:
    with sketched():
        pass
    made = nn.Linear(2, 3)
    assert not made.weight.is_meta
    assert bool(made.weight.any())


def test_a_model_is_checked_without_loading_torchs_compiler() -> None:
    subprocess.run([sys.executable, "-c", SKETCH], check=True, timeout=60)

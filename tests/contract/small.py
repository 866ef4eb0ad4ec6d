"""A small LLaMa in four stages: real attention and real gradients, under a second a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from checkfree.config.load import build, merge
from checkfree.core.config import Config
from checkfree.core.units import derive
from checkfree.models.families import family
from checkfree.pipeline import chunks_of

VOCABULARY = 23

TREE: dict[str, Any] = {
    "iterations": 20,
    "stages": 4,
    "microbatches": 3,  # two replicas share them unequally, and one of them is swapped
    "batch": 2,
    "model": {"width": 16, "heads": 2, "blocks": 4, "context": 8, "vocabulary": VOCABULARY},
    "recovery": {"name": "none"},
    "validation": {"every": 0},
    "resume": {"every": 0},
}


def small(out: Path, *changes: Mapping[str, Any]) -> Config:
    """The configuration of a small run, with ``changes`` on top."""
    tree = {**TREE, "out": str(out)}
    for change in changes:
        tree = merge(tree, change)
    return build(tree)


def modules(config: Config) -> list[nn.Module]:
    """Stages 0 … n with the weights that a run of ``config`` starts from (semantics 18); of body
    stages of two chunks these, in the order of the model."""
    count = chunks_of(config.schedule).count * config.stages
    return [_module(config, stage, count) for stage in range(count + 1)]


def _module(config: Config, stage: int, count: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, "init", stage))
        return family(config.model.family).stage(config.model, stage, count)


def counting(config: Config, purpose: str = "train") -> Callable[[int, int], Tensor]:
    """Microbatches of rows that count up from anywhere, by 1 to 3: easy enough to learn."""
    columns = torch.arange(config.model.context + 1)

    def batch(iteration: int, microbatch: int) -> Tensor:
        def draw(row: int) -> int:
            return derive(config.seed, purpose, iteration, microbatch, row)

        draws = torch.tensor([[draw(row)] for row in range(config.batch)])
        return (draws // 3 % VOCABULARY + (1 + draws % 3) * columns) % VOCABULARY

    return batch


def text(path: Path) -> dict[str, Any]:
    """Write a few kilobytes of text; returns the sections of a built-in model that reads them."""
    lines = (f"{n} stages less {n // 3} are {n - n // 3}\n" for n in range(200))
    path.write_text("".join(lines))
    return {"data": {"name": "text", "path": str(path)}, "model": {"vocabulary": 256}}


def trace(path: Path, *entries: tuple[int, int] | tuple[int, int, int]) -> str:
    """Write a failure trace of (tick, stage) or (tick, stage, replica); returns its path."""
    keys = ("iteration", "stage", "replica")
    failures = [dict(zip(keys, entry, strict=False)) for entry in entries]
    path.write_text(json.dumps({"failures": failures}))
    return str(path)

"""Bytes and work of a configuration's stages, without building its weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from checkfree.build.blueprint import of_family
from checkfree.config import Config, FleetConfig
from checkfree.data.tokenizers import open_tokenizer
from checkfree.errors import BadInput
from checkfree.load import load
from checkfree.models.config import ModelConfig
from checkfree.models.families import family
from checkfree.simulate.sizes import Sizes, published

OWN, PUBLISHED = "own", "published"

STEP_BYTES = 4
"""Adam counts the steps of every parameter by itself, in fp32."""


def named_sizes(fleet: FleetConfig) -> str:
    """``published``, ``own`` or a configuration's name."""
    return fleet.sizes or (PUBLISHED if fleet.name == "paper" else OWN)


def sizes_of(config: Config) -> Sizes:
    """Those that ``fleet.sizes`` names. Raises BadInput."""
    named = named_sizes(config.fleet)
    if named == PUBLISHED:
        return published(config.stages)
    if named == OWN:
        return _own(config, OWN)
    try:
        other = load(named)
    except BadInput as error:
        raise BadInput(
            f"fleet.sizes={named}: expected own, published or a configuration: {error}"
        ) from None
    return _own(replace(other, stages=config.stages), Path(named).name)


def _own(config: Config, name: str) -> Sizes:
    model = replace(config.model, vocabulary=config.model.vocabulary or _vocabulary(config))
    of_family(config, model.vocabulary or 1)  # says what is wrong with it, if anything
    made = family(model.family)
    with torch.device("meta"):
        edge, body = (made.stage(model, stage, config.stages) for stage in (0, 1))
    wide = 8 if config.precision == "fp64" else 4
    both = (edge, *[body] * config.stages)
    params = tuple(wide * sum(p.numel() for p in stage.parameters()) for stage in both)
    counters = tuple(STEP_BYTES * len(list(stage.parameters())) for stage in both)
    tokens = config.batch * model.context
    return Sizes(
        name=name,
        activation=wide * tokens * model.width,
        params=params,
        buffers=tuple(_buffers(stage, wide) for stage in both),
        moments=tuple(2 * count + steps for count, steps in zip(params, counters, strict=True)),
        embed=0.0,
        body=_body_flops(body, model, config.stages) * tokens,
        head=2.0 * (model.vocabulary or 1) * model.width * tokens,
    )


def _vocabulary(config: Config) -> int:
    return open_tokenizer(config.data.tokenizer).vocabulary


def _buffers(stage: nn.Module, wide: int) -> int:
    """Of those that are part of a state, as floating point they come in the run's precision."""
    kept = stage.state_dict().keys()
    return sum(
        b.numel() * (wide if b.is_floating_point() else b.element_size())
        for name, b in stage.named_buffers()
        if name in kept
    )


def _body_flops(body: nn.Module, model: ModelConfig, stages: int) -> float:
    """Of a token's forward through one stage: two per weight, and attention over half a context."""
    weights = sum(p.numel() for p in body.parameters() if p.ndim > 1)
    attention = model.blocks // stages * 2 * model.context * model.width
    return 2.0 * weights + attention

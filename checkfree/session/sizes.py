"""Bytes and work of a configuration's stages, without building its weights."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from torch import nn

from checkfree.config.load import load
from checkfree.core.config import Config, FleetConfig, OptimizerConfig, RecoveryConfig
from checkfree.core.errors import BadInput
from checkfree.core.formats import (
    BF16,
    BF16_WEIGHTS,
    FP32,
    INT4_ROWS,
    INT8_ROWS,
    SIGNS,
    WIRE,
    bytes_of,
)
from checkfree.core.links import parse_links
from checkfree.core.rates import MUON, SGD, momentum_of
from checkfree.data.tokenizers import tokenizer_of
from checkfree.pipeline import chunks_of
from checkfree.recovery.options import AUTO, SHADOW_FORMATS
from checkfree.recovery.registry import replays, spec_of
from checkfree.session.blueprint import experts_used, flops, of_family
from checkfree.simulator.sizes import Sizes, published, told_bytes
from checkfree.stage.optimizer import for_muon

OWN, PUBLISHED = "own", "published"

PACKED = (FP32, BF16, INT8_ROWS, INT4_ROWS, SIGNS)
"""How shadows may be written."""

STEP_BYTES = 4
"""Adam counts the steps of every parameter by itself, in fp32."""


def named_sizes(fleet: FleetConfig) -> str:
    """``published``, ``own`` or a configuration's name."""
    sites = fleet.name == "paper" and fleet.links is None
    return fleet.sizes or (PUBLISHED if sites else OWN)


def sizes_of(config: Config) -> Sizes:
    """Those that ``fleet.sizes`` names. Raises BadInput."""
    named = named_sizes(config.fleet)
    if named == PUBLISHED:
        return replace(
            published(config.stages, config.wire), visits=chunks_of(config.schedule).count
        )
    if named == OWN:
        return own_sizes(config)
    try:
        other = load(named)
    except BadInput as error:
        raise BadInput(
            f"fleet.sizes={named}: expected own, published or a configuration: {error}"
        ) from None
    same = replace(other, stages=config.stages, wire=config.wire, schedule=config.schedule)
    return own_sizes(same, Path(named).name)


def own_sizes(config: Config, name: str = OWN) -> Sizes:
    """Those of the configured model itself, in bytes and flops. Raises BadInput."""
    tokens = config.batch * config.model.context
    vocabulary = config.model.vocabulary or tokenizer_of(config.data).vocabulary
    model = replace(config.model, vocabulary=vocabulary)
    blueprint = of_family(config, vocabulary)
    chunks = blueprint.chunks
    both = blueprint.layout(config.stages, blueprint.cut, chunks).modules
    cut = blueprint.cut
    counts = (
        [model.blocks // config.stages] * config.stages
        if cut is None
        else [
            sum(cut[chunk - 1] for chunk in chunks.of(stage, config.stages))
            for stage in range(1, config.stages + 1)
        ]
    )
    used = experts_used(model)
    bodies = [
        tokens * flops(body, model, n, used) for body, n in zip(both[1:], counts, strict=True)
    ]
    wide = 8 if config.precision == "fp64" else 4
    computed = 2 if config.precision == BF16_WEIGHTS else wide
    params = tuple(wide * sum(p.numel() for p in stage.parameters()) for stage in both)
    values = tokens * model.width
    written = {how: _sent((tokens, model.width), how, computed) for how in WIRE}
    activation = written[config.wire.activations]
    return Sizes(
        name=name,
        activation=activation,
        gradient=written[config.wire.gradients],
        params=params,
        buffers=tuple(_buffers(stage, wide) for stage in both),
        moments=tuple(
            _moments(config.optimizer, stage, wide, edge=place == 0)
            for place, stage in enumerate(both)
        ),
        embed=0.0,
        bodies=tuple(bodies),
        head=2.0 * (model.vocabulary or 1) * model.width * tokens,
        packed={
            how: tuple(sum(bytes_of(tuple(p.shape), how) for p in s.parameters()) for s in both)
            for how in PACKED
        },
        told=told_bytes(values, activation),
        stashed=tuple(
            (computed if place else wide)
            * tokens
            * _read_and_written(stage, used)  # a loss is fp32
            for place, stage in enumerate(both)
        ),
        parameters=sum(params) // wide,
        written=written,
        links=parse_links(config.wire.links),
        visits=chunks.count,
    )


def rounded_bytes(config: Config, params: int) -> int:
    """What weights of so many bytes take once more, where they are rounded to be computed with."""
    return params // 2 if config.precision == BF16_WEIGHTS else 0


def _moments(optimizer: OptimizerConfig, stage: nn.Module, wide: int, *, edge: bool) -> int:
    """Bytes of what an optimizer remembers of a stage: of each parameter a sum of its gradients or,
    as Adam does, two and the steps."""
    named = list(stage.named_parameters())
    alone, adams = [param for _, param in named], list[nn.Parameter]()
    if optimizer.name == SGD:
        alone = alone if momentum_of(optimizer) else []
    elif optimizer.name == MUON and not edge:
        adams = [param for name, param in named if not for_muon(name, param)]
        alone = [param for name, param in named if for_muon(name, param)]
    else:
        alone, adams = [], alone
    values = sum(p.numel() for p in alone) + 2 * sum(p.numel() for p in adams)
    return wide * values + STEP_BYTES * len(adams)


def recovery_of(config: Config, sizes: Sizes | None = None) -> RecoveryConfig:
    """With ``shadow_every: auto`` kept within its budget of bytes: of signs those of changes, for
    whole copies are few; and with the iterations that copies for replays travel. ``sizes``: the
    model's own, if they are known already. Raises BadInput."""
    recovery = config.recovery
    if replays(recovery):
        recovery = _replayed(config, recovery, sizes or own_sizes(config))
    if not spec_of(recovery).pushes or recovery.shadow_every != AUTO:
        return recovery
    sizes = sizes or own_sizes(config)
    hops = config.microbatches * (config.stages * sizes.visits + 1)
    budget = recovery.shadow_budget * hops * (sizes.activation + sizes.gradient)
    least = math.ceil(sum(sizes.packed[SHADOW_FORMATS[recovery.shadow_format]]) / budget)
    return replace(recovery, shadow_least=max(recovery.shadow_least, least))


def _replayed(config: Config, recovery: RecoveryConfig, sizes: Sizes) -> RecoveryConfig:
    """Copies have the iterations that they need within their budget, and one more; and a log has
    room for those between two waves and until the second one counts."""
    if recovery.copies > config.stages:
        raise BadInput(
            f"recovery.copies={recovery.copies} of each stage take as many others, and there are "
            f"{config.stages}: recovery.copies={config.stages}, or more stages"
        )
    both = sizes.activation + sizes.gradient
    largest = max(sizes.state(stage, moments=True) for stage in range(config.stages + 1))
    budget = recovery.wave_budget * config.microbatches * sizes.visits * both
    lag = recovery.wave_lag or math.ceil(largest / budget) + 1
    reach = _reach(recovery, lag)
    least = reach * _logged(config, sizes)
    if recovery.log_memory != AUTO and recovery.log_memory < least:
        keys = "recovery.wave_lag" + (" or recovery.wave_every" if recovery.wave_every else "")
        raise BadInput(
            f"recovery.log_memory={recovery.log_memory}: logs have to reach back over {reach} "
            f"iterations, until the copies of a wave count: at least {least} bytes, or a smaller "
            f"{keys}"
        )
    return replace(recovery, wave_lag=lag)


def _reach(recovery: RecoveryConfig, lag: int) -> int:
    """Iterations that logs reach back over: from one wave until the next one counts."""
    return lag + (recovery.wave_every or lag + 1)


def _logged(config: Config, sizes: Sizes) -> int:
    """Bytes that an iteration adds to a seat's log."""
    microbatches = math.ceil(config.microbatches / config.replicas)
    return microbatches * sizes.visits * (sizes.activation + sizes.gradient)


def logged_bytes(config: Config, sizes: Sizes) -> int:
    """What a seat's log takes of its memory at most: all of it, or one iteration that is not
    written to a disk yet. Raises BadInput."""
    log = log_bytes(config, sizes)
    return log if config.recovery.log_path is None else min(log, _logged(config, sizes))


def log_bytes(config: Config, sizes: Sizes) -> int:
    """What a seat's log takes at most, in memory or on a disk; 0: nothing is logged. Raises
    BadInput."""
    recovery = recovery_of(config, sizes)
    if recovery.wave_lag is None or not replays(recovery):
        return 0
    each = _logged(config, sizes)
    found = recovery.log_memory == AUTO
    log = _reach(recovery, recovery.wave_lag) * each if found else recovery.log_memory
    return min(config.iterations * each, log)


def _read_and_written(stage: nn.Module, used: int | None) -> int:
    """Values of a token that autograd keeps: about those that each matrix reads, and those that it
    writes; of experts, which are matrices in a parameter of three dimensions, those of as many as
    are ``used``. Measured: 0.9 of what our LLaMa keeps, 1.0 of what our GPT does; 0.6 to 0.9 of
    what models of transformers do, 0.8 to 1.05 of most with experts, 0.7 of gpt-oss."""
    values = sum(sum(p.shape) for p in stage.parameters() if p.ndim == 2)
    for module in stage.modules():
        experts = [p.shape for p in module.parameters(recurse=False) if p.ndim == 3]
        if used and experts:
            sides = [sum(shape[1:]) for shape in experts]
            # Where the first writes a gate and what it multiplies, what comes of the gate is kept.
            values += min(used, experts[0][0]) * (sum(sides) + max(sides) - min(sides))
    return values


def _sent(shape: tuple[int, int], how: str, wide: int) -> int:
    """Bytes, of values that are computed in ``wide`` bytes each."""
    return wide * math.prod(shape) if how == FP32 else bytes_of(shape, how)


def _buffers(stage: nn.Module, wide: int) -> int:
    """Of those that are part of a state, as floating point they come in the run's precision."""
    kept = stage.state_dict().keys()
    return sum(
        b.numel() * (wide if b.is_floating_point() else b.element_size())
        for name, b in stage.named_buffers()
        if name in kept
    )

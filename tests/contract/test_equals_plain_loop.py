"""Without failures the pipeline is a plain PyTorch loop with gradient accumulation, and no more.

Why ``eps`` is 1e-6: where a gradient is all but zero, Adam divides it by eps, so a difference of
rounding (about 1e-17 in float64) may move a weight by lr · 1e-17 / eps. With 1e-6 that is 2e-14 a
step, far below the bound of 1e-10, while any true difference (a microbatch left out, a share
counted double, a clip over the wrong stages) moves weights by about lr: 2e-3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import checkfree
from checkfree.core.config import Config, OptimizerConfig
from checkfree.data import open_data
from checkfree.session.blueprint import paired
from tests.chaos import SOAK
from tests.contract.small import counting, modules, small, text

Batches = Callable[[int, int], Tensor]

BASE = {
    "optimizer": {"eps": 1e-6, "clip": 0.1},
    "validation": {"every": 8, "microbatches": 1},  # which the loop has not: it changes nothing
}
SWAPPED = {"recovery": {"name": "checkfree_plus"}}
COSINE = {"schedule": "cosine", "warmup": 4, "min_lr": 0.1}
EIGHT = {"model": {"blocks": 8}}
CASES: dict[str, dict[str, Any]] = {
    "1f1b": {"schedule": "1f1b"},
    "gpipe": {"schedule": "gpipe"},
    "swapped": SWAPPED,
    "two replicas": {"replicas": 2},
    "three replicas, by flow": {"replicas": 3, "routes": "flow"},
    "two replicas, swapped, nearest": {**SWAPPED, "replicas": 2, "routes": "nearest"},
    "two replicas, swapped, gpipe": {**SWAPPED, "replicas": 2, "schedule": "gpipe"},
    "shadow forwards": {"recovery": {"name": "redundant"}},
    "recomputed": {"stash": "recompute"},
    "clipped over all stages": {"optimizer": {"clip_over": "global", "clip": 0.7}},
    "not clipped": {"optimizer": {"clip": None}},
    "adamw, warm-up, cosine": {"optimizer": {"name": "adamw", "weight_decay": 0.1, **COSINE}},
    "momentum": {"optimizer": {"name": "sgd", "lr": 0.3, "momentum": 0.8}},
    "muon, cosine": {"optimizer": {"name": "muon", "lr": 4e-3, "weight_decay": 0.1, **COSINE}},
    "muon, swapped, two replicas": {**SWAPPED, "replicas": 2, "optimizer": {"name": "muon"}},
    "gpt, tied, recomputed in part": {
        "model": {"family": "gpt", "tied": True},
        "recompute": [0, 3],
    },
    "zb_h1": {"schedule": "zb_h1"},
    "zb_h2": {"schedule": "zb_h2"},
    "zb_h1, two stages, many microbatches": {
        "schedule": "zb_h1",
        "stages": 2,
        "microbatches": 9,
    },
    "zb_h2, one stage": {"schedule": "zb_h2", "stages": 1},
    "zb_h2, eight stages, three replicas": {
        "schedule": "zb_h2",
        "stages": 8,
        "replicas": 3,
        "microbatches": 5,
        "model": {"blocks": 8},
    },
    "zb_h1, two replicas, swapped": {**SWAPPED, "replicas": 2, "schedule": "zb_h1"},
    "zb_h2, all swapped": {
        "recovery": {"name": "checkfree_plus", "share": 1.0},
        "schedule": "zb_h2",
    },
    "zb_h1, a quarter swapped": {
        "recovery": {"name": "checkfree_plus", "share": 0.25},
        "microbatches": 8,
        "schedule": "zb_h1",
    },
    "zb_h1, shadow forwards": {"recovery": {"name": "redundant"}, "schedule": "zb_h1"},
    "zb_h1, recomputed": {"recompute": True, "schedule": "zb_h1"},
    "zb_h2, gpt, tied, recomputed in part": {
        "model": {"family": "gpt", "tied": True},
        "recompute": [0, 3],
        "schedule": "zb_h2",
    },
    "interleaved, two replicas": {**EIGHT, "schedule": "interleaved", "replicas": 2},
    "zbv, offloaded": {**EIGHT, "schedule": "zbv", "stash": "offload", "stash_room": 0},
    "zbv, swapped, by flow": {
        **EIGHT,
        **SWAPPED,
        "schedule": "zbv",
        "replicas": 2,
        "routes": "flow",
    },
    "zbv, one stage": {"model": {"blocks": 2}, "schedule": "zbv", "stages": 1},
    "v_half, three stages, recomputed in part": {
        "model": {"blocks": 6},
        "schedule": "v_half",
        "stages": 3,
        "microbatches": 7,
        "recompute": [0, 2],
    },
    "v_min, gpt, tied, clipped over all": {
        "model": {"family": "gpt", "tied": True, "blocks": 8},
        "schedule": "v_min",
        "optimizer": {"clip_over": "global", "clip": 0.7},
    },
    "interleaved, swapped, muon": {
        **EIGHT,
        **SWAPPED,
        "schedule": "interleaved",
        "optimizer": {"name": "muon"},
    },
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


# --- the plain loop ------------------------------------------------------------------------------


def plain_loop(
    config: Config, stages: Sequence[nn.Module], batches: Batches, **how: bool
) -> list[float]:
    """Train ``stages`` in place as any tutorial would; ``how`` Adams step. Returns the loss of each
    step."""
    chunks = stages
    stages = paired(stages, config)
    optimizers = [
        made for stage in stages for made in make_optimizers(config.optimizer, stage, **how)
    ]
    losses = []
    for iteration in range(config.iterations):
        total = 0.0
        for microbatch in range(config.microbatches):
            batch = batches(iteration, microbatch)
            hidden = stages[0].embed(batch)
            for stage in order(config, microbatch):
                hidden = chunks[stage](hidden)
            loss = stages[0].loss(hidden, batch) / config.microbatches
            loss.backward()
            total += loss.item()
        clip(config.optimizer, stages)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, iteration)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(total)
    return losses


def make_optimizers(
    config: OptimizerConfig, stage: nn.Module, **adams: bool
) -> list[torch.optim.Optimizer]:
    if config.name == "sgd":
        return [torch.optim.SGD(stage.parameters(), lr=config.lr, momentum=config.momentum or 0.9)]
    how: dict[str, Any] = {"eps": config.eps, "weight_decay": config.weight_decay, **adams}
    if config.name != "muon" or hasattr(stage, "embed"):
        made = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
        return [made(stage.parameters(), **how)]
    matrices, rest = (
        [p for p in stage.parameters() if (p.ndim == 2) is two] for two in (True, False)
    )
    ours = torch.optim.Muon(
        matrices, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [ours, torch.optim.AdamW(rest, **how)]


def order(config: Config, microbatch: int) -> list[int]:
    """The chunks of body stages as a microbatch visits them."""
    body, recovery = list(range(1, config.stages + 1)), config.recovery
    share = recovery.share if recovery.name == "checkfree_plus" else 0
    if math.floor((microbatch + 1) * share) > math.floor(microbatch * share):
        body = [2, 1, 4, 3]
    again = {
        "interleaved": [config.stages + stage for stage in body],
        "zbv": [2 * config.stages + 1 - stage for stage in reversed(body)],
    }
    return body + again.get("zbv" if config.schedule.startswith("v_") else config.schedule, [])


def clip(config: OptimizerConfig, stages: Sequence[nn.Module]) -> None:
    if config.clip is None:
        return
    if config.clip_over == "global":
        everything = [p for stage in stages for p in stage.parameters()]
        nn.utils.clip_grad_norm_(everything, config.clip)
        return
    for stage in stages:
        nn.utils.clip_grad_norm_(stage.parameters(), config.clip)


def learning_rate(config: Config, iteration: int) -> float:
    peak, warmup = config.optimizer.lr, config.optimizer.warmup
    if iteration < warmup:
        return peak * (iteration + 1) / warmup
    if config.optimizer.schedule == "constant":
        return peak
    lowest = peak * config.optimizer.min_lr
    done = (iteration - warmup) / (config.iterations - warmup)
    return lowest + (peak - lowest) * (1 + math.cos(math.pi * done)) / 2


# --- the pipeline beside it ----------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_float64_losses_and_weights_to_1e_10(case: dict[str, Any], tmp_path: Path) -> None:
    config = small(tmp_path / "run", BASE, {"precision": "fp64"}, case)
    batches, own = counting(config), [stage.double() for stage in modules(config)]
    run = train_own_modules(config)
    expected = plain_loop(config, own, batches)
    assert run.losses == pytest.approx(expected, rel=0, abs=1e-10)
    assert largest_difference(run.stages, paired(own, config)) < 1e-10
    assert expected[-1] < expected[0] - 0.2, "nothing was learnt, so little was compared"
    assert clips(run) >= (0 if config.optimizer.clip is None else config.iterations)


@pytest.mark.parametrize(
    "name",
    [
        "1f1b",
        "swapped",
        "two replicas",
        "zb_h1",
        "zb_h2",
        "zb_h1, two replicas, swapped",
        "zbv, offloaded",
    ],
)
def test_float32_losses_to_1e_5(name: str, tmp_path: Path) -> None:
    config = small(tmp_path / "run", BASE, CASES[name])
    expected = plain_loop(config, modules(config), counting(config))
    assert train_own_modules(config).losses == pytest.approx(expected, rel=0, abs=1e-5)


@pytest.mark.parametrize("schedule", ["1f1b", "zb_h1", "zb_h2", "zbv"])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_float32_to_the_last_bit(name: str, schedule: str, tmp_path: Path) -> None:
    """Where the loop's own roundings are those of a pipeline: it divides losses by a power of two,
    does not clip, and has torch's fused steps."""
    how = {"optimizer": {"name": name, "weight_decay": 0.1, **COSINE, "clip": None}, **EIGHT}
    config = small(tmp_path / "run", BASE, {"microbatches": 4, "schedule": schedule}, how)
    own = modules(config)
    run, expected = train_own_modules(config), plain_loop(config, own, counting(config), fused=True)
    assert run.losses == expected
    assert largest_difference(run.stages, paired(own, config)) == 0.0
    assert expected[-1] < expected[0] - 0.1


@pytest.mark.parametrize("precision, bound", [("fp64", 1e-10), ("fp32", 1e-5)])
def test_a_built_in_model_on_a_text(precision: str, bound: float, tmp_path: Path) -> None:
    """The model section and the text of a configuration, and nothing passed in."""
    changes = {"precision": precision, **text(tmp_path / "text")}
    config = small(tmp_path / "run", BASE, SWAPPED, changes)
    opened = open_data(config.data, context=8, batch=config.batch, seed=config.seed)
    own = [stage.double() if precision == "fp64" else stage for stage in modules(config)]
    expected = plain_loop(config, own, opened.train)
    assert checkfree.train(config).losses == pytest.approx(expected, rel=0, abs=bound)


def test_the_modules_passed_in_stay_as_they_are(tmp_path: Path) -> None:
    config = small(tmp_path / "run", {"precision": "fp64", "iterations": 1})
    start = modules(config)
    checkfree.train(config, stages=start, batches=counting(config))
    assert largest_difference(start, modules(config)) == 0.0
    assert all(param.dtype is torch.float32 for stage in start for param in stage.parameters())


@pytest.mark.parametrize("wire", ["fp32", "int8", *["bf16", "fp16"] * SOAK])
def test_on_any_wire_all_schedules_have_the_same_bits(wire: str, tmp_path: Path) -> None:
    """In order and without replicas, all add up gradients by microbatch. What a seat passes from
    one of its chunks to the other is not sent, so V schedules have bits of their own."""
    wires = {"wire": {"activations": wire, "gradients": wire}, "iterations": 8, "microbatches": 6}
    runs = [
        train_own_modules(small(tmp_path / schedule, wires, {"schedule": schedule}))
        for schedule in ("1f1b", "zb_h1", "zb_h2")
    ]
    assert runs[0].losses == runs[1].losses == runs[2].losses
    assert all(largest_difference(runs[0].stages, run.stages) == 0.0 for run in runs)
    v_shaped = [
        train_own_modules(small(tmp_path / schedule, wires, EIGHT, {"schedule": schedule}))
        for schedule in ("zbv", "v_half", "v_min")
    ]
    assert v_shaped[0].losses == v_shaped[1].losses == v_shaped[2].losses


def test_swaps_and_clipping_show_in_the_loop(tmp_path: Path) -> None:
    """Else the cases that swap or clip would compare nothing: each gives losses of its own."""
    changes = ({}, SWAPPED, CASES["not clipped"], CASES["clipped over all stages"])
    configs = [small(tmp_path, BASE, {"iterations": 4}, change) for change in changes]
    last = sorted(plain_loop(c, modules(c), counting(c))[-1] for c in configs)
    assert all(above - below > 1e-6 for below, above in pairwise(last)), last


def test_a_torch_without_muon_begins_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(tmp_path / "run", {"optimizer": {"name": "muon"}})
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(checkfree.BadInput, match=r"muon needs torch 2\.9 or later"):
        train_own_modules(config)
    assert not (tmp_path / "run").exists()


def train_own_modules(config: Config) -> checkfree.Run:
    feeds = {"batches": counting(config), "validation": counting(config, "validation")}
    return checkfree.train(config, stages=modules(config), **feeds)


def clips(run: checkfree.Run) -> int:
    """How often a stage's gradient was clipped."""
    factors = [record["clip"].values() for record in run.records if record["kind"] == "iteration"]
    return sum(factor < 1 for of_step in factors for factor in of_step)


def largest_difference(ones: Sequence[nn.Module], others: Sequence[nn.Module]) -> float:
    """Over all parameters of all stages."""
    pairs = zip(ones, others, strict=True)
    return max(
        (one - other.to(one.dtype)).abs().max().item()
        for first, second in pairs
        for one, other in zip(first.parameters(), second.parameters(), strict=True)
    )

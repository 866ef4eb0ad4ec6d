"""What does a restart from a shadow cost, and which part of it? Age, bits, moments, or a fit.

    python experiments/catching_up/measure.py experiments/catching_up/results
        [--seed 0] [--late 1] [--only 'nothing lost;int4 every 30'] [--iterations 400]

A plain loop over the stages of a pipeline, without messages: the same model, data and optimizer as
experiments/every_stage_fails, but nothing is lost before iteration 150, so that the chance of the
first steps, which moves a whole run by 0.1 nats, is the same for all. From then on each stage is
lost with 2 % an iteration: 38 losses, the same for every way to restart. ``--late`` scales the
learning rate of all stages from then on: a way that helps only where that is too low is none.
``--iterations``: fewer are over sooner, and lose stages from three eighths of them on.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
from collections import defaultdict, deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from bits import by_rows_and_columns, one_bit, two_bits
from torch import Tensor, nn

from checkfree.config.load import build
from checkfree.core.config import Config
from checkfree.core.units import derive
from checkfree.data import open_data
from checkfree.messages.quantize import pack, unpack
from checkfree.models.families import family
from checkfree.recovery.shadow.ahead import FARTHEST

RATE, LAG = 0.02, 2
WARMUP, LEAST = 20, 0.05
READ = 20


@dataclass(frozen=True)
class Way:
    """``every``: iterations between shadows. ``how``: a format, or ``delta``: two bits of what
    changed since the last shadow; ``signs``: one bit. ``moments``: the second moment comes back
    too, by rows and columns. ``fit``: local steps on what went in and came out, and their learning
    rate. ``faster``: the stage's own learning rate at first, over the others', and in how many
    iterations that excess halves. ``block``: numbers that share a mean size in ``signs``.
    ``whole``: how a copy is written that changes begin with. ``again``: a lost holder's shadows
    begin anew. ``held``: what owner and holder of ``signs`` keep, ``fp32`` or ``bf16``. ``ahead``:
    times its age that a shadow of ``signs`` is moved on, as its last change went."""

    every: int = 30
    how: str = "int4_rows"
    moments: bool = False
    fit: tuple[int, float] = (0, 0.0)
    faster: tuple[float, float] = (1.0, 1.0)
    block: int = 64
    whole: str = "int8_rows"
    again: bool = False
    held: str = "fp32"
    ahead: float = 0.0


DEFAULT = Way(10, "signs", block=256, whole="int4_rows", again=True, held="bf16")

WAYS: dict[str, Way | None] = {
    "nothing lost": None,
    "int4 every 30": Way(),
    "int4 every 30, second moment": Way(moments=True),
    "int4 every 30, 32 fit steps": Way(fit=(32, 5e-4)),
    "int4 every 30, 128 fit steps": Way(fit=(128, 2e-3)),
    "2-bit deltas every 12": Way(12, "delta"),
    "2-bit deltas every 12, 128 fit steps": Way(12, "delta", fit=(128, 2e-3)),
    "1-bit deltas every 8": Way(8, "signs"),
    "1-bit deltas every 10": Way(10, "signs"),
    "1-bit deltas every 10, wholes in int4, blocks of 256": Way(
        10, "signs", block=256, whole="int4_rows", again=True
    ),
    "1-bit deltas every 10, held in bf16": DEFAULT,
    "1-bit deltas every 10, moved on": replace(DEFAULT, ahead=1.0),
    "1-bit deltas every 10, moved on 1.5 times as far": replace(DEFAULT, ahead=1.5),
    "1-bit deltas every 10, moved on twice as far": replace(DEFAULT, ahead=2.0),
    "fp32 every 8": Way(8, "fp32"),
    "fp32 every iteration": Way(1, "fp32"),
    "int4 every 30, rate times 1.5 for 20": Way(faster=(1.5, 20)),
    "int4 every 30, rate times 1.5 for 40": Way(faster=(1.5, 40)),
    "int4 every 30, rate times 2 for 12": Way(faster=(2.0, 12)),
    "int4 every 30, rate times 2 for 20": Way(faster=(2.0, 20)),
    "int4 every 30, rate times 3 for 10": Way(faster=(3.0, 10)),
}


def configured(seed: int, iterations: int) -> Config:
    model = {"width": 64, "heads": 4, "hidden": 176, "blocks": 12, "context": 128}
    return build(
        {
            "iterations": iterations,
            "stages": 6,
            "microbatches": 4,
            "batch": 2,
            "seed": seed,
            "model": {"family": "llama", "vocabulary": 256, **model},
            "optimizer": {"name": "adam", "lr": 2e-3},
        }
    )


def first(config: Config) -> int:
    """The iteration from which on stages are lost: 150 of 400."""
    return config.iterations * 3 // 8


def losses(config: Config) -> dict[int, list[int]]:
    """Stages by iteration."""
    draw = random.Random(1000 + config.seed)
    found: defaultdict[int, list[int]] = defaultdict(list)
    for iteration in range(1, config.iterations):
        for stage in range(config.stages + 1):
            if draw.random() < RATE and iteration >= first(config):
                found[iteration].append(stage)
    return found


@dataclass
class Shadow:
    version: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    change: dict[str, Tensor] | None
    """That made it, of signs."""
    took: int
    """Iterations."""


class Pipeline:
    """A model in stages, with an optimizer and the last shadows of each."""

    def __init__(self, config: Config, way: Way | None, late: float):
        self.config, self.way, self.late = config, way or Way(), late
        self.stages = [self._module(stage) for stage in range(config.stages + 1)]
        self.optimizers = [self._fresh(stage) for stage in self.stages]
        self.shadows: dict[int, deque[Shadow]] = defaultdict(lambda: deque(maxlen=3))
        self.crossed: dict[int, deque[tuple[Tensor, Tensor]]]
        self.crossed = defaultdict(lambda: deque(maxlen=32))
        self.anew: set[int] = set()
        """Stages whose shadows died with another."""
        self.restarted: dict[int, int] = {}
        """Stages, and when."""

    def _module(self, stage: int) -> nn.Module:
        torch.manual_seed(derive(self.config.seed, "init", stage))
        return family(self.config.model.family).stage(self.config.model, stage, self.config.stages)

    def _fresh(self, stage: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(stage.parameters(), lr=self.config.optimizer.lr)

    def loss(self, batch: Tensor, *, kept: bool = False) -> Tensor:
        hidden = self.stages[0].embed(batch)  # type: ignore[operator]
        for number, stage in enumerate(self.stages[1:], 1):
            came, hidden = hidden.detach(), stage(hidden)
            if kept:
                self.crossed[number].append((came, hidden.detach()))
        made: Tensor = self.stages[0].loss(hidden, batch)  # type: ignore[operator]
        return made

    def step(self, iteration: int, batches: list[Tensor]) -> None:
        for batch in batches:
            (self.loss(batch, kept=True) / len(batches)).backward()
        done = max(0, iteration - WARMUP) / (self.config.iterations - WARMUP)
        decayed = LEAST + (1 - LEAST) * 0.5 * (1 + math.cos(math.pi * done))
        for number, (stage, optimizer) in enumerate(zip(self.stages, self.optimizers, strict=True)):
            nn.utils.clip_grad_norm_(stage.parameters(), 1.0)
            rate = self.config.optimizer.lr * min((iteration + 1) / WARMUP, decayed)
            optimizer.param_groups[0]["lr"] = rate * self._scale(number, iteration)
            optimizer.step()
            optimizer.zero_grad()

    def _scale(self, number: int, iteration: int) -> float:
        scale = self.late if iteration >= first(self.config) else 1.0
        if number not in self.restarted:
            return scale
        faster, half = self.way.faster
        return scale * (1 + (faster - 1) * 0.5 ** ((iteration - self.restarted[number]) / half))

    def push(self, version: int) -> None:
        """The shadows that are due, each stage at its own phase."""
        every = self.way.every
        for number, stage in enumerate(self.stages):
            held = self.shadows[number]
            due = version % every == number * every // len(self.stages) % every
            if due or not held or number in self.anew:
                before = held[-1].weights if held and number not in self.anew else None
                self.anew.discard(number)
                weights = self._packed(stage.state_dict(), before)
                state = self.optimizers[number].state_dict() if self.way.moments else {}
                change = None
                if before is not None and self.way.how == "signs":
                    change = self._change(stage.state_dict(), before)
                took = version - held[-1].version if held else 0
                held.append(Shadow(version, weights, copy.deepcopy(state), change, took))

    def _packed(
        self, weights: dict[str, Tensor], before: dict[str, Tensor] | None
    ) -> dict[str, Tensor]:
        if self.way.how == "delta" and before is not None:
            return {k: before[k] + two_bits(w - before[k]) for k, w in weights.items()}
        if self.way.how == "signs" and before is not None:
            change = self._change(weights, before)
            made = {k: before[k] + change[k] for k in weights}
            if self.way.held == "bf16":
                made = {k: w.bfloat16().float() for k, w in made.items()}
            return made
        how = self.way.whole if self.way.how in ("delta", "signs") else self.way.how
        return {k: unpack(pack(w, how), how, torch.float32).clone() for k, w in weights.items()}

    def _change(self, weights: dict[str, Tensor], before: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: one_bit(w - before[k], self.way.block) for k, w in weights.items()}

    def restart(self, number: int, iteration: int) -> None:
        """A lost stage out of the newest shadow that counts."""
        stage = self.stages[number]
        shadow = [s for s in self.shadows[number] if s.version <= iteration - LAG][-1]
        stage.load_state_dict(self._moved_on(shadow, iteration))
        self.restarted[number] = iteration
        if self.way.again:
            self.anew.add((number or len(self.stages)) - 1)
        self.optimizers[number] = optimizer = self._fresh(stage)
        if self.way.moments:
            optimizer.load_state_dict(shadow.optimizer)
            for state in optimizer.state.values():
                state["exp_avg"].zero_()
                state["exp_avg_sq"] = by_rows_and_columns(state["exp_avg_sq"])
        if number > 0:
            self._fit(stage, [*self.crossed[number]])

    def _moved_on(self, shadow: Shadow, iteration: int) -> dict[str, Tensor]:
        """Where the stage would be, had it gone on as it last changed."""
        if shadow.change is None or not self.way.ahead:
            return shadow.weights
        times = min((iteration - shadow.version) / shadow.took, FARTHEST) * self.way.ahead
        return {
            k: w + times * shadow.change[k] if w.ndim > 1 else w for k, w in shadow.weights.items()
        }

    def _fit(self, stage: nn.Module, pairs: list[tuple[Tensor, Tensor]]) -> None:
        steps, rate = self.way.fit
        optimizer = torch.optim.Adam(stage.parameters(), lr=rate or 1.0)
        for step in range(steps):
            came, went = pairs[-1 - step % len(pairs)]
            optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
            optimizer.zero_grad()
            (stage(came) - went).square().mean().backward()
            optimizer.step()
        optimizer.zero_grad()


def run(way: Way | None, config: Config, late: float) -> list[float]:
    """Validation losses, every ``READ`` iterations."""
    data = open_data(config.data, context=128, batch=2, seed=config.seed)
    pipeline, lost, read = Pipeline(config, way, late), losses(config) if way else {}, []
    for iteration in range(config.iterations):
        for stage in lost.get(iteration, ()):
            pipeline.restart(stage, iteration)
        pipeline.step(iteration, [data.train(iteration, m) for m in range(config.microbatches)])
        if way:
            pipeline.push(iteration + 1)
        if (iteration + 1) % READ == 0:
            with torch.no_grad():
                made = [pipeline.loss(data.validation(iteration, m)).item() for m in range(32)]
            read.append(sum(made) / len(made))
    return read


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--late", type=float, default=1.0)
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--only", metavar="WAY;WAY", help="semicolons between them")
    given = parser.parse_args()
    torch.set_num_threads(1)
    config = configured(given.seed, given.iterations)
    short = "" if given.iterations == 400 else f"-of-{given.iterations}"
    given.results.mkdir(parents=True, exist_ok=True)
    for name in given.only.split(";") if given.only else WAYS:
        late = "" if given.late == 1 else f"-late-{given.late:g}"
        plain = name.replace(" ", "_").replace(",", "")
        file = given.results / f"{plain}-seed-{given.seed}{late}{short}.json"
        if not file.exists():
            read = run(WAYS[name], config, given.late)
            file.write_text(json.dumps({"way": name, "every": READ, "losses": read}) + "\n")
        print(f"{name:40} {json.loads(file.read_text())['losses'][-1]:.4f}", flush=True)


if __name__ == "__main__":
    main()

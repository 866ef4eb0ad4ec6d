"""What does each format of the wire cost in nats, and does error feedback take some of it back?

    python experiments/wire_formats/measure.py experiments/wire_formats/results
        [--seeds 5] [--iterations 200] [--only 'int8;int4']

A plain loop over the stages of a pipeline, without messages: what crosses between two stages is
packed and unpacked by checkfree's own code, forwards and backwards, at every one of the five
boundaries. The same model, data and steps for every format. Beside the loss: how far each way has
the gradient of one iteration off, at the weights that the run in fp32 ends with.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from checkfree.config.load import build
from checkfree.core.config import Config
from checkfree.core.formats import FP32, bytes_of
from checkfree.core.ops import Address
from checkfree.core.units import derive
from checkfree.data import open_data
from checkfree.messages.quantize import pack, unpack
from checkfree.models.families import family
from checkfree.stage import Part
from checkfree.worker.feedback import Feedback

WARMUP, LEAST, VALIDATED = 20, 0.05, 64


@dataclass(frozen=True)
class Way:
    """How is sent what crosses a boundary. ``owed``: what has error feedback."""

    activations: str = FP32
    gradients: str = FP32
    owed: tuple[str, ...] = ()

    def bytes(self, config: Config) -> float:
        """Of a value, there and back."""
        shape = config.batch * config.model.context, config.model.width
        both = bytes_of(shape, self.activations) + bytes_of(shape, self.gradients)
        return both / math.prod(shape)


THERE, BACK = "activations", "gradients"

WAYS = {
    "fp32": Way(),
    "bf16": Way("bf16", "bf16"),
    "int8": Way("int8", "int8"),
    "int4": Way("int4", "int4"),
    "int4, feedback for gradients": Way("int4", "int4", (BACK,)),
    "int4, feedback both ways": Way("int4", "int4", (THERE, BACK)),
    "int8 there, int4 back": Way("int8", "int4"),
    "int8 there, int4 back, feedback": Way("int8", "int4", (BACK,)),
}


@dataclass
class Boundaries:
    """Between the stages, for one iteration."""

    way: Way
    owed: dict[str, Feedback] = field(
        default_factory=lambda: {w: Feedback() for w in (THERE, BACK)}
    )

    def cross(self, what: str, place: int, x: Tensor) -> Tensor:
        how = self.way.activations if what == THERE else self.way.gradients
        if how == FP32:
            return x
        if what not in self.way.owed:
            return unpack(pack(x, how), how, x.dtype)
        due = self.owed[what].due(Address(place), Part.BODY, x)
        read = unpack(pack(due, how), how, x.dtype)
        self.owed[what].sent(Address(place), Part.BODY, due, read)
        return read


class Crossing(torch.autograd.Function):
    """From one stage to the next, and back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, place: int, boundaries: Boundaries) -> Tensor:
        ctx.place, ctx.boundaries = place, boundaries
        return boundaries.cross(THERE, place, x).clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.boundaries.cross(BACK, ctx.place, gradients[0]), None, None


def configured(seed: int, iterations: int) -> Config:
    model = {"width": 64, "heads": 4, "hidden": 176, "blocks": 4, "context": 64}
    return build(
        {
            "iterations": iterations,
            "stages": 4,
            "microbatches": 4,
            "batch": 2,
            "seed": seed,
            "model": {"family": "llama", "vocabulary": 256, **model},
            "optimizer": {"name": "adam", "lr": 2e-3},
        }
    )


class Pipeline:
    """A model in stages, and their optimizers."""

    def __init__(self, config: Config):
        self.config = config
        self.stages = [self._module(stage) for stage in range(config.stages + 1)]
        lr = config.optimizer.lr
        self.optimizers = [torch.optim.Adam(stage.parameters(), lr=lr) for stage in self.stages]

    def _module(self, stage: int) -> nn.Module:
        torch.manual_seed(derive(self.config.seed, "init", stage))
        return family(self.config.model.family).stage(self.config.model, stage, self.config.stages)

    def loss(self, batch: Tensor, boundaries: Boundaries) -> Tensor:
        hidden = self.stages[0].embed(batch)  # type: ignore[operator]
        for place, stage in enumerate(self.stages[1:]):
            hidden = stage(Crossing.apply(hidden, place, boundaries))
        hidden = Crossing.apply(hidden, self.config.stages, boundaries)
        made: Tensor = self.stages[0].loss(hidden, batch)  # type: ignore[operator]
        return made

    def gradients(self, batches: Sequence[Tensor], way: Way) -> Tensor:
        """Of all parameters, flat."""
        boundaries = Boundaries(way)
        for stage in self.stages:
            stage.zero_grad()
        for batch in batches:
            (self.loss(batch, boundaries) / len(batches)).backward()
        return torch.cat([p.grad.flatten() for s in self.stages for p in s.parameters()])

    def step(self, iteration: int, batches: Sequence[Tensor], way: Way) -> None:
        self.gradients(batches, way)
        done = max(0, iteration - WARMUP) / (self.config.iterations - WARMUP)
        decayed = LEAST + (1 - LEAST) * 0.5 * (1 + math.cos(math.pi * done))
        for stage, optimizer in zip(self.stages, self.optimizers, strict=True):
            nn.utils.clip_grad_norm_(stage.parameters(), 1.0)
            rate = self.config.optimizer.lr * min((iteration + 1) / WARMUP, decayed)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()

    def errors(self, batches: Sequence[Tensor]) -> Mapping[str, float]:
        """By way: the gradient's distance from that of fp32, over its norm."""
        exact = self.gradients(batches, Way())
        return {
            name: float((self.gradients(batches, way) - exact).norm() / exact.norm())
            for name, way in WAYS.items()
        }


def run(way: Way, config: Config) -> dict[str, Any]:
    data = open_data(
        config.data, context=config.model.context, batch=config.batch, seed=config.seed
    )
    pipeline = Pipeline(config)
    for iteration in range(config.iterations):
        batches = [data.train(iteration, m) for m in range(config.microbatches)]
        pipeline.step(iteration, batches, way)
    boundaries = Boundaries(Way(way.activations, way.gradients))
    with torch.no_grad():
        made = [pipeline.loss(data.validation(0, m), boundaries).item() for m in range(VALIDATED)]
    found: dict[str, Any] = {"loss": sum(made) / len(made), "bytes": way.bytes(config)}
    if way == Way():
        more = [data.train(config.iterations, m) for m in range(16)]
        found["errors"] = pipeline.errors(more)
    return found


Found = Mapping[str, Mapping[str, Any]]
"""What came of each way."""


def tabled(found: Sequence[Found]) -> list[list[str]]:
    """A row for each way: bytes of a value there and back, its loss over that of fp32 at the same
    seed, and how far it has a gradient off; means and standard deviations over seeds."""
    rows = [["way", "bytes", "gap", "gap_std", "seeds", "gradient_off", "gradient_off_std"]]
    for name in WAYS:
        both = [(run[name], run["fp32"]) for run in found if name in run]
        if both:
            gaps = told([one["loss"] - exact["loss"] for one, exact in both])
            off = told([exact["errors"][name] for _, exact in both])
            rows.append([name, f"{both[0][0]['bytes']:.4g}", *gaps, str(len(both)), *off])
    return rows


def told(values: Sequence[float]) -> tuple[str, str]:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f}", f"{spread:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--only", metavar="WAY;WAY", help="beside fp32; semicolons between them")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.results.mkdir(parents=True, exist_ok=True)
    ways, found = given.only.split(";") if given.only else [*WAYS], []
    for seed in range(given.seeds):
        config = configured(seed, given.iterations)
        file = given.results / f"seed-{seed}.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        for name in dict.fromkeys(("fp32", *ways)):
            if name not in known:
                known[name] = run(WAYS[name], config)
                file.write_text(json.dumps(known, indent=1) + "\n")
            print(f"{seed}  {name:40} {known[name]['loss']:.4f}", flush=True)
        found.append(known)
    with (given.results / "table.csv").open("w", newline="") as table:
        csv.writer(table, lineterminator="\n").writerows(tabled(found))


if __name__ == "__main__":
    main()

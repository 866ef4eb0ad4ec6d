"""Tokens per second and model-FLOPs utilisation on one device, beside the plain loop.

    python benchmarks/gpu.py [--options] [demo|paper/124m …] [key=value …]

Random tokens, bf16 on ``cuda:0`` unless ``precision=…`` or ``devices=[cpu]`` say otherwise. FLOPs
are counted as 6 per token for each weight outside of the embedding, and 12 × blocks × width ×
context per token for attention; recomputation does no useful work and doesn't count.

``--options``: what each option for speed is worth, instead. The same stages with it and without are
trained in one process, an iteration of each in turn; the median of the ratios of neighbours counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from beside import NOTHING_ELSE, Batch, in_turn, measure, stages_loop
from torch import Tensor

from checkfree.config.load import build, load, merge, to_tree
from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.core.units import derive
from checkfree.models.families import family
from checkfree.runtime.process import settled
from checkfree.session.blueprint import of_family

Change = Mapping[str, Any]

VOCABULARY = 32_000
PEAK_BF16 = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40": 181e12, "4090": 165e12}
"""Dense, as the makers state it, in FLOP/s."""
WARM_UP = 3


def random_tokens(config: Config) -> Batch:
    """A pure function of (iteration, microbatch), on the host as real data is."""

    def batch(iteration: int, microbatch: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive(0, "bench", iteration, microbatch))
        shape = (config.batch, config.model.context + 1)
        return torch.randint(VOCABULARY, shape, generator=generator)

    return batch


def flops_per_token(config: Config, parameters: int) -> float:
    """Forward and backward, of the weights that multiply and of attention."""
    model = config.model
    weights = parameters - VOCABULARY * model.width
    return 6 * weights + 12 * model.blocks * model.width * model.context


def report(name: str, words: list[str]) -> str:
    """One line for one configuration."""
    device = ["replicas=1", "iterations=15", "precision=bf16", "devices=[cuda:0]"]
    config = load(name, [*NOTHING_ELSE, *device, *words])
    blueprint = of_family(config, VOCABULARY)
    times = measure(config, blueprint, random_tokens(config))
    ours, plain = (statistics.median(each[WARM_UP:]) for each in times)
    tokens = config.microbatches * config.batch * config.model.context
    line = (
        f"{name}: {tokens / ours:,.0f} tokens/s, loop {tokens / plain:,.0f}, "
        f"ratio of seconds {ours / plain:.3f}"
    )
    if config.devices[0] == "cpu":
        return line
    chip = torch.cuda.get_device_name(0)
    rate = flops_per_token(config, blueprint.parameters) * tokens / ours
    peak = next((peak for key, peak in PEAK_BF16.items() if key in chip), None)
    used = f", {rate / peak:.1%} of what its maker states" if peak else ""
    return f"{line}; {rate / 1e12:.1f} TFLOP/s on {chip}{used}"


def option(config: Config, what: str, one: Change, other: Change) -> str:
    """One line for one option: ``one`` over ``other``."""
    loops = []
    for change in (one, other):
        changed = build(merge(to_tree(config), change))
        loops.append(stages_loop(changed, of_family(changed, VOCABULARY), random_tokens(config)))
    with settled(config.threads):
        times = in_turn(loops, config.iterations, config.devices[0])
    with_it, without = (each[WARM_UP:] for each in times)
    ratio = statistics.median(a / b for a, b in zip(with_it, without, strict=True))
    tokens = config.microbatches * config.batch * config.model.context
    speeds = " and ".join(f"{tokens / statistics.median(t):,.0f}" for t in (with_it, without))
    return f"  {what}: ratio of seconds {ratio:.3f}, {speeds} tokens/s, first {times[0][0]:.1f} s"


def options(name: str, words: list[str], folder: Path) -> Iterator[str]:
    """A line for each."""
    device = ["replicas=1", "iterations=25", "precision=bf16", "devices=[cuda:0]"]
    config = load(name, [*NOTHING_ELSE, *device, *words])
    yield f"{name}:"
    yield option(config, "compiled, over not", {"compile": True}, {"compile": False})
    narrow, casting = {"precision": "bf16_weights"}, {"precision": "bf16"}
    yield option(config, "bf16 weights, over autocast", narrow, casting)
    both = {"compile": True, **narrow}
    yield option(config, "both, over neither", both, {"compile": False, **casting})
    if find_spec("transformers") is None:
        yield "  sdpa, over eager attention: needs transformers"
        return
    theirs = hub_model(config, folder)
    sdpa, eager = ({"model": {"attention": how}} for how in ("sdpa", "eager"))
    yield option(theirs, "sdpa, over eager attention", sdpa, eager)


def hub_model(config: Config, folder: Path) -> Config:
    """The same model as transformers computes it: ours knows one kind of attention."""
    model = replace(config.model, vocabulary=VOCABULARY)
    path = folder / "config.json"
    path.write_text(json.dumps(family(model.family).transformers_config(model)), encoding="utf-8")
    tree = to_tree(config)
    tree["model"] = {"family": "hf", "config": str(path), "context": model.context}
    return build(tree)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--options", action="store_true", help="what options for speed are worth")
    parser.add_argument("given", nargs="*", metavar="NAME|key=value", help="configurations, words")
    asked = parser.parse_args()
    given = asked.given
    words = [word for word in given if "=" in word]
    names = [word for word in given if "=" not in word] or ["demo", "paper/124m"]
    try:
        for name in names:
            if not asked.options:
                print(report(name, words))
                continue
            with tempfile.TemporaryDirectory() as folder:
                for line in options(name, words, Path(folder)):
                    print(line, flush=True)
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

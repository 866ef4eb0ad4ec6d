"""Tokens per second and model-FLOPs utilisation on one device, beside the plain loop.

    python benchmarks/gpu.py [demo|paper/124m …] [key=value …]

Random tokens, bf16 on ``cuda:0`` unless ``precision=…`` or ``devices=[cpu]`` say otherwise. FLOPs
are counted as 6 per token for each weight outside of the embedding, and 12 × blocks × width ×
context per token for attention; recomputation does no useful work and doesn't count.
"""

from __future__ import annotations

import argparse
import statistics
import sys

import torch
from beside import NOTHING_ELSE, Batch, measure
from torch import Tensor

from checkfree.config.load import load
from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.core.units import derive
from checkfree.session.blueprint import of_family

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


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("given", nargs="*", metavar="NAME|key=value", help="configurations, words")
    given = parser.parse_args().given
    words = [word for word in given if "=" in word]
    names = [word for word in given if "=" not in word] or ["demo", "paper/124m"]
    try:
        for name in names:
            print(report(name, words))
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

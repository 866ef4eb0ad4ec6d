"""How fast two stages of 100 million parameters average into one, beside a plain copy of one.

    python benchmarks/rebuild.py [--rounds 15] [--width 1024]

Bytes read and written per second, one thread, in turn: an average (reads two stages, writes one),
a copy (``clone`` of every tensor: reads one, writes one). Both write to memory that they ask for.
Memory new to the process costs a page fault every few KiB, so much that little else shows;
therefore both are measured once more with memory kept, as a run has it.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from checkfree.models import llama
from checkfree.models.config import ModelConfig
from checkfree.recovery.average import weighted_average
from checkfree.runtime.process import keep_freed_memory

SHAPE = ModelConfig(width=1024, heads=16, blocks=6, vocabulary=32000)  # six blocks of the 500M
WEIGHTS = (0.3, 0.7)
M_MMAP_THRESHOLD = -3  # of mallopt(3): blocks this large get new pages, and give them back

Tensors = Mapping[str, Tensor]


def main() -> None:
    """Prints a row for each kind of memory; the share is what the average reaches of the copy."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--width", type=int, default=SHAPE.width, help="of the model")
    given = parser.parse_args()
    torch.set_num_threads(1)
    one, other = stage(1, given.width), stage(2, given.width)
    size = sum(tensor.nbytes for tensor in one.values())
    print(f"stages of {size / 4e6:.1f}M parameters in fp32, {given.rounds} rounds, medians")
    print("memory         average GB/s   copy GB/s   share")
    for memory in memories():
        average_s, copy_s = in_turn(
            lambda: weighted_average((one, other), WEIGHTS), lambda: copied(one), given.rounds
        )
        average, copy = 3 * size / average_s / 1e9, 2 * size / copy_s / 1e9
        print(f"{memory:14} {average:12.1f} {copy:11.1f} {average / copy:7.0%}")


def stage(seed: int, width: int) -> Tensors:
    """The parameters of one body stage, by name."""
    torch.manual_seed(seed)
    module = llama.stage(replace(SHAPE, width=width), 1, stages=1)
    return {name: param.detach() for name, param in module.named_parameters()}


def copied(tensors: Tensors) -> Tensors:
    """What the average is measured by."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def memories() -> Iterator[str]:
    """Where results are put: on new pages each time, then on pages that the process had before."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        yield "allocator's"
        return
    mallopt(M_MMAP_THRESHOLD, 1 << 17)
    yield "new pages"
    keep_freed_memory()
    yield "kept pages"


def in_turn(
    one: Callable[[], Tensors], other: Callable[[], Tensors], rounds: int
) -> tuple[float, float]:
    """Median seconds of each. The first round warms up and does not count."""
    pairs = [(timed(one), timed(other)) for _ in range(rounds + 1)][1:]
    first, second = zip(*pairs, strict=True)
    return statistics.median(first), statistics.median(second)


def timed(call: Callable[[], Tensors]) -> float:
    """Seconds of a call; its result is freed after the clock has stopped."""
    start = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    del result
    return seconds


if __name__ == "__main__":
    main()

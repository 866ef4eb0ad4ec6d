"""Seconds per iteration of the in-process pipeline over a plain PyTorch loop; to be ≤ 1.03.

    python benchmarks/overhead.py [--iterations 40] [key=value …]

Same model (the demo's), same batches, same optimizer and clipping, one thread. The figure is the
median of the ratios of neighbours, an iteration of one and the next of the other.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from beside import NOTHING_ELSE, measure

from checkfree.config.load import load
from checkfree.messages.control import Purpose
from checkfree.session.job import of_config

WARM_UP = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("words", nargs="*", metavar="key=value", help="of the configuration")
    given = parser.parse_args()
    for schedule in ("1f1b", "gpipe"):
        words = [*NOTHING_ELSE, f"schedule={schedule}", f"iterations={given.iterations}"]
        job = of_config(load("demo", [*words, *given.words]), Path(), ())
        ours, plain = measure(job.config, job.blueprint, job.feeds[Purpose.TRAIN])
        ratios = [a / b for a, b in zip(ours, plain, strict=True)][WARM_UP:]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"{schedule:>6}: pipeline {statistics.median(ours):.4f} s, "
            f"loop {statistics.median(plain):.4f} s per iteration; "
            f"ratio {middle:.3f} (quartiles {low:.3f} … {high:.3f})"
        )


if __name__ == "__main__":
    main()

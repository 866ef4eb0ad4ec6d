"""How alike are the weights of neighbouring stages? Cosine of their matrices, block by block.

    python experiments/swap_similarity/measure.py runs/failure_rates results

reads ``weights/`` of the finished runs ``no_failure`` and ``checkfree_plus(failures=none)`` of a
comparison, and writes ``cosines.csv``. Vectors (norms) are left out: all of them are near 1, and
would make any two stages look alike.
"""

from __future__ import annotations

import csv
import sys
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev

import torch
from safetensors.torch import load_file

TRAINED = {"no_failure": "in order", "checkfree_plus-failures-none": "ends swapped"}


def cosine(one: Path, other: Path) -> float:
    """Of all matrices of two stages, as one vector each."""
    first, second = load_file(one), load_file(other)
    names = sorted(name for name, tensor in first.items() if tensor.ndim > 1)
    a, b = (torch.cat([t[name].flatten().double() for name in names]) for t in (first, second))
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def rows(runs: Path) -> list[tuple[str, str, str, float]]:
    """(how it was trained, seed, pair of stages, cosine) for every pair of neighbours."""
    found = []
    for folder, how in TRAINED.items():
        for run in sorted((runs / "runs" / folder).glob("seed-*/weights")):
            stages = sorted(run.glob("stage-*.safetensors"))[1:]  # stage 0 has no like
            for left, right in pairwise(stages):
                pair = f"{left.stem.removeprefix('stage-')}-{right.stem.removeprefix('stage-')}"
                found.append((how, run.parent.name, pair, cosine(left, right)))
    return found


def main(runs: str, results: str) -> None:
    table = rows(Path(runs))
    if not table:
        sys.exit(f"{runs} has no finished runs with weights: train experiments/failure_rates first")
    with open(Path(results) / "cosines.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("trained", "seed", "stages", "cosine"))
        writer.writerows((*row[:3], f"{row[3]:.4f}") for row in table)
    for how, pair in dict.fromkeys((row[0], row[2]) for row in table):
        values = [row[3] for row in table if (row[0], row[2]) == (how, pair)]
        spread = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
        print(f"{how:12}  stages {pair}  cosine {mean(values):+.4f}{spread} ({len(values)} seeds)")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])

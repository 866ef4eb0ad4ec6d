"""What it takes to start a run of a comparison: in a fork of what has imported all, and afresh.

    python benchmarks/starts.py [--runs 8]

Both ways train the same run of three iterations, in turn, one at a time. The first fork waits for
its server to import torch; it is told apart.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from checkfree.study.pool import Pool

WORDS = ("iterations=3", "validation.every=0", "failures=none", "recovery=none", "--quiet")


def by_fork(pool: Pool, out: Path) -> float:
    """Seconds, from the order to the end of the run."""
    began = time.perf_counter()
    pool.start(out.name, ["train", "demo", *WORDS, f"out={out}"])
    while not (ended := pool.ended()):
        time.sleep(0.002)
    if ended[0].code:
        raise SystemExit(ended[0].last)
    return time.perf_counter() - began


def afresh(out: Path) -> float:
    """The same."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "checkfree", "train", "demo", *WORDS, f"out={out}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=8)
    runs = parser.parse_args().runs
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder, Pool([{"OMP_NUM_THREADS": "1"}]) as pool:
        out = Path(folder)
        first, forked, fresh = by_fork(pool, out / "first"), list[float](), list[float]()
        for number in range(runs):
            forked.append(by_fork(pool, out / f"forked-{number}"))
            fresh.append(afresh(out / f"fresh-{number}"))
    ratios = [slow / fast for slow, fast in zip(fresh, forked, strict=True)]
    print(
        f"a run of three iterations: {median(forked):.2f} s by fork (the first {first:.2f} s), "
        f"{median(fresh):.2f} s afresh: {median(ratios):.1f} times as long "
        f"({min(ratios):.1f} … {max(ratios):.1f})"
    )


if __name__ == "__main__":
    main()

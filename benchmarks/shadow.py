"""Seconds per iteration with shadows over without, when nothing fails; to be ≤ 1.01.

    python benchmarks/shadow.py [iterations] [strategy …]

The demo twice in one process, in turn, iteration by iteration, on one thread: so a machine that
slows down slows both. One stage pushes at a time, so neighbours are compared over blocks in which
every stage has pushed as often as it does in the long run; the figure is the median of the blocks.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from beside import NOTHING_ELSE, Clock

from checkfree.build.assemble import assemble, equip
from checkfree.build.job import Job, of_config
from checkfree.load import load
from checkfree.runtime.files import DiskFiles
from checkfree.runtime.process import settled
from checkfree.store import Store

BLOCK = 50
"""Iterations: k, in which each stage pushes once."""
STRATEGIES = ("shadow", "auto")


class Turns:
    """Two runs, of which one trains while the other waits."""

    def __init__(self) -> None:
        self.seconds: tuple[list[float], list[float]] = ([], [])
        self._free = (threading.Semaphore(1), threading.Semaphore(0))
        self._since = time.perf_counter()

    def begin(self, place: int) -> None:
        self._free[place].acquire()
        self._since = time.perf_counter()

    def end(self, place: int) -> None:
        self.seconds[place].append(time.perf_counter() - self._since)
        self._free[1 - place].release()

    def after_iteration(self, place: int) -> Callable[[], None]:
        def call() -> None:
            self.end(place)
            self.begin(place)

        return call


def measure(without: Job, with_shadows: Job) -> tuple[list[float], list[float]]:
    """Seconds of each iteration of both."""
    turns = Turns()
    jobs = (without, with_shadows)
    threads = [threading.Thread(target=_train, args=(job, turns, i)) for i, job in enumerate(jobs)]
    with settled(without.config.threads):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return turns.seconds


def _train(job: Job, turns: Turns, place: int) -> None:
    turns.begin(place)
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock(turns.after_iteration(place))
        equipment = equip(job.config, job.blueprint, job.feeds)
        assemble(job.config, equipment, Store(DiskFiles(Path(folder))), clock).runtime.run()
    turns.end(place)


def main() -> None:
    iterations = int(sys.argv[1]) if len(sys.argv) > 1 else 4 * BLOCK
    for strategy in sys.argv[2:] or STRATEGIES:
        words = [*NOTHING_ELSE, f"iterations={iterations}"]
        jobs = [
            of_config(load("demo", [*words, f"recovery={name}"]), Path(), ())
            for name in ("none", strategy)
        ]
        both = [times[BLOCK // 2 : iterations] for times in measure(*jobs)]
        plain, ours = (
            [sum(times[i : i + BLOCK]) for i in range(0, len(times) - BLOCK + 1, BLOCK // 2)]
            for times in both
        )
        ratios = [a / b for a, b in zip(ours, plain, strict=True)]
        print(
            f"{strategy:>6}: {statistics.median(both[1]):.4f} s, without "
            f"{statistics.median(both[0]):.4f} s per iteration; ratio "
            f"{statistics.median(ratios):.4f} (blocks {min(ratios):.4f} … {max(ratios):.4f})"
        )


if __name__ == "__main__":
    main()

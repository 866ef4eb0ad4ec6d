"""Seconds per iteration of a stash that is recomputed or offloaded, over one that is kept.

    python benchmarks/stash.py [--iterations 8] [--memory] [key=value …]

All three train in one process, in turn, iteration by iteration, on one thread: so a machine that
slows down slows all. Everything is offloaded that can be, whether the disk is fast enough or not
(``stash_room=0``). What a disk of another speed would do is the simulator's to say.

With ``--memory`` also the most memory that each takes over what it has before its first iteration,
in a process of its own: of the machine, or of a GPU if it computes on one.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from beside import NOTHING_ELSE, Clock

from checkfree.config.load import load
from checkfree.config.stash import KEEP, OFFLOAD, RECOMPUTE
from checkfree.core.units import render_bytes
from checkfree.runtime.files import DiskFiles
from checkfree.runtime.process import settled
from checkfree.runtime.store import Store
from checkfree.session.assemble import assemble, make_worker_context
from checkfree.session.job import Job, of_config

SIZES = [
    *("stages=4", "model.blocks=4", "model.width=256", "model.heads=4", "model.hidden=688"),
    *("model.context=256", "batch=2", "microbatches=12"),
]
WAYS = (KEEP, RECOMPUTE, OFFLOAD)
WARM_UP = 1
AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Has the C library give back what is freed, as otherwise it may not for long: so that what a
process has is what it needs."""


def job_of(way: str, words: list[str]) -> Job:
    given = [*NOTHING_ELSE, *SIZES, *words, f"stash={way}", "stash_room=0"]
    return of_config(load("demo", given), Path(), ())


def run(job: Job, clock: Clock) -> None:
    with tempfile.TemporaryDirectory() as folder:
        context = make_worker_context(job.config, job.blueprint, job.feeds)
        assemble(job.config, context, Store(DiskFiles(Path(folder))), clock).runtime.run()


class Turns:
    """Some runs, of which one trains while the others wait."""

    def __init__(self, count: int) -> None:
        self.seconds: list[list[float]] = [[] for _ in range(count)]
        self._free = [threading.Semaphore(int(place == 0)) for place in range(count)]
        self._since = 0.0

    def begin(self, place: int) -> None:
        self._free[place].acquire()
        self._since = time.perf_counter()

    def end(self, place: int) -> None:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.seconds[place].append(time.perf_counter() - self._since)
        self._free[(place + 1) % len(self._free)].release()

    def train(self, job: Job, place: int) -> None:
        def after_iteration() -> None:
            self.end(place)
            self.begin(place)

        self.begin(place)
        run(job, Clock(after_iteration))
        self.end(place)


def seconds(iterations: int, words: list[str]) -> None:
    jobs = [job_of(way, [f"iterations={iterations + WARM_UP}", *words]) for way in WAYS]
    turns = Turns(len(jobs))
    threads = [threading.Thread(target=turns.train, args=(job, i)) for i, job in enumerate(jobs)]
    with settled(jobs[0].config.threads):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    kept, *others = (times[WARM_UP : iterations + WARM_UP] for times in turns.seconds)
    print(f"{KEEP}: {statistics.median(kept):.3f} s per iteration", flush=True)
    for way, times in zip(WAYS[1:], others, strict=True):
        ratios = [one / other for one, other in zip(times, kept, strict=True)]
        print(
            f"{way}: {statistics.median(times):.3f} s; ratio {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} … {max(ratios):.3f})",
            flush=True,
        )


def peak(way: str, words: list[str]) -> int:
    """Bytes of this process, which trains two iterations, over what it has before."""
    job = job_of(way, ["iterations=2", *words])
    gpu = job.config.devices[0] != "cpu"
    before = 0

    def begun() -> None:
        nonlocal before
        if before:
            return
        if gpu:
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        else:
            before = resident("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # the highest begins anew

    run(job, Clock(begun))  # after the first iteration: moments and gradients are there
    return (torch.cuda.max_memory_allocated() if gpu else resident("VmHWM")) - before


def resident(which: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(which))


def memory(words: list[str]) -> None:
    found = {}
    for way in WAYS:
        command = [sys.executable, __file__, *words, "--peak-of", way]
        env = {**os.environ, **AT_ONCE}
        told = subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout
        found[way] = int(told.split()[-1])
        ratio = found[way] / found[KEEP]
        print(f"{way}: {render_bytes(found[way])} at most, ratio {ratio:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("words", nargs="*", metavar="key=value")
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak-of", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    words = [word for word in given.words if re.match(r"[\w.]+=", word)]
    if given.peak_of:
        print(peak(given.peak_of, words))
        return
    seconds(given.iterations, words)
    if given.memory:
        memory(words)


if __name__ == "__main__":
    main()

"""Seconds per iteration with shadows over without, when nothing fails; to be ≤ 1.01.

    python benchmarks/shadow.py [--iterations 240] [--swarm ROUNDS [--only-swarm]] [strategy …]
        [key=value …]

The demo twice in one process, in turn, iteration by iteration, on one thread: so a machine that
slows down slows both. One stage pushes at a time, so neighbours are compared over blocks in which
every stage has pushed as often as it does in the long run; the figure is the median of the blocks.

With ``--swarm`` also in processes: swarms with and without shadows one after the other, so many
times, in turns that change who is first; the figure is the median over the rounds of the ratio of
the median iterations. Two swarms of one kind are up to 6 % apart, so a second figure is of each
swarm alone: its iterations that push over those that don't, as far as they are its iterations.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from beside import NOTHING_ELSE, Clock
from living import Living, living

from checkfree.config.load import load
from checkfree.core.formats import SIGNS
from checkfree.recovery.shadow.plan import usual
from checkfree.runtime.files import DiskFiles
from checkfree.runtime.process import settled
from checkfree.runtime.store import Store
from checkfree.session.assemble import assemble, make_worker_context
from checkfree.session.job import Job, of_config

BLOCK = 60
"""Iterations: in which each stage pushes twice."""
STRATEGIES = ("shadow", "auto")
MODEL = [
    *("stages=6", "microbatches=4", "batch=2", "model.width=64", "model.heads=4"),
    *("model.hidden=176", "model.blocks=12", "model.context=128", "model.vocabulary=256"),
]
"""Of the swarms: that of experiments/."""


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
        context = make_worker_context(job.config, job.blueprint, job.feeds)
        assemble(job.config, context, Store(DiskFiles(Path(folder))), clock).runtime.run()
    turns.end(place)


def in_one_process(strategy: str, iterations: int, more: list[str]) -> None:
    words = [*NOTHING_ELSE, f"iterations={iterations}", *more]
    jobs = [
        of_config(load("demo", [*words, f"recovery={name}"]), Path(), ())
        for name in ("none", strategy)
    ]
    both = [times[BLOCK // 2 : iterations] for times in measure(*jobs)]
    plain, ours = (
        [sum(times[i : i + BLOCK]) for i in range(0, len(times) - BLOCK + 1, BLOCK // 2)]
        for times in both
    )
    tell(strategy, both[1], both[0], [a / b for a, b in zip(ours, plain, strict=True)])


def in_a_swarm(strategy: str, iterations: int, rounds: int, more: list[str]) -> None:
    medians: dict[str, list[float]] = {"none": [], strategy: []}
    for number in range(rounds):
        for name in sorted(medians, reverse=number % 2 == 1):
            words = [*NOTHING_ELSE, *MODEL, f"iterations={10 * iterations}", f"recovery={name}"]
            words += more
            with tempfile.TemporaryDirectory() as folder, living(Path(folder), words) as swarm:
                swarm.advance(iterations)
            medians[name].append(statistics.median(swarm.iterations))
            pushing = f"{pushing_over_not(swarm):.4f}"
            print(
                f"round {number + 1}: {name} {medians[name][-1]:.4f} s; pushing {pushing}",
                flush=True,
            )
    ours, plain = medians[strategy], medians["none"]
    tell(f"{strategy} in a swarm", ours, plain, [a / b for a, b in zip(ours, plain, strict=True)])


def pushing_over_not(swarm: Living) -> float:
    """Of one swarm, with the default's rhythm: 1 + what a push takes over, over all iterations.
    Of one without shadows it tells by how much chance moves that."""
    k, stages = usual(SIGNS), 7
    phases = {stage * k // stages for stage in range(stages)}
    times: dict[bool, list[float]] = {True: [], False: []}
    for tick, seconds in zip(swarm.ticks, swarm.iterations, strict=True):
        if tick >= 2 * k:  # before, each stage pushes for the first time
            times[(tick + 1) % k in phases].append(seconds)
    with_one, without = (statistics.median(times[pushes]) for pushes in (True, False))
    return 1 + len(phases) / k * (with_one / without - 1)


def tell(what: str, ours: list[float], plain: list[float], ratios: list[float]) -> None:
    print(
        f"{what}: {statistics.median(ours):.4f} s, without {statistics.median(plain):.4f} s per "
        f"iteration; ratio {statistics.median(ratios):.4f} ({min(ratios):.4f} … "
        f"{max(ratios):.4f})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("given", nargs="*", metavar="STRATEGY|key=value")
    parser.add_argument("--iterations", type=int, default=4 * BLOCK, help="90 at least")
    parser.add_argument("--swarm", metavar="ROUNDS", type=int, default=0)
    parser.add_argument("--only-swarm", action="store_true")
    given = parser.parse_args()
    words = [word for word in given.given if re.match(r"[\w.]+=", word)]
    for strategy in [word for word in given.given if word not in words] or STRATEGIES:
        if not given.only_swarm:
            in_one_process(strategy, given.iterations, words)
        if given.swarm:
            in_a_swarm(strategy, given.iterations, given.swarm, words)


if __name__ == "__main__":
    main()

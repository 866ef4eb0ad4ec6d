"""What log and replay cost while nothing fails, and what a replayed iteration takes.

    python benchmarks/replay.py [--pairs 30] [--iterations 40] [--replays 20] [key=value …]

The demo's model in one process on one thread, with ``recovery=replay`` and with ``recovery=none``,
an iteration of one and then of the other, so that whatever else the machine does slows both: CPU
and wall seconds as the ratio of their medians, with a 95 % bootstrap interval (to end at 1.02 or
before). Each run has two waves. Beside it, as much of a run with ``recovery=none`` against another
one: an interval that 1 is not in says that the machine was not calm enough to tell. Then a stage is
lost again and again: a replayed iteration over what the seat took for its own forwards, backwards
and step (to be ≤ 1.1).
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from beside import NOTHING_ELSE, Clock

from checkfree.config.load import load
from checkfree.core.config import Config
from checkfree.core.ops import Address
from checkfree.core.units import render_bytes
from checkfree.messages.control import Outgoing
from checkfree.runtime.files import DiskFiles
from checkfree.runtime.process import settled
from checkfree.runtime.store import Store
from checkfree.session.assemble import Assembly, assemble, make_worker_context
from checkfree.session.job import Job, of_config
from checkfree.worker import StageWorker

VICTIM = Address(2)
FEWEST = 6
"""Pairs that have an interval of 95 %: of fewer, all may well be on one side of the truth."""

Seconds = npt.NDArray[np.float64]
"""Of each pair."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--replays", type=int, default=20)
    parser.add_argument("words", nargs="*", metavar="key=value", help="of the configuration")
    given = parser.parse_args()
    waves = max(1, given.iterations // 3)
    words = [*NOTHING_ELSE, f"iterations={given.iterations}", *given.words]
    on = [*words, "recovery=replay", f"recovery.wave_every={waves}", "recovery.wave_lag=2"]
    with settled(1), tempfile.TemporaryDirectory() as folder:
        jobs = [of_config(load("demo", made), Path(), ()) for made in (on, words)]
        take_turns(jobs, folder)  # the first sets up memory
        tell_costs(jobs, given.pairs, folder)
        tell_bytes(jobs[0], folder)
        tell_replays(jobs[0].config, given.replays, folder)


def made(job: Job, folder: str, committed: Callable[[], None] = lambda: None) -> Assembly:
    context = make_worker_context(job.config, job.blueprint, job.feeds)
    return assemble(job.config, context, Store(DiskFiles(Path(folder))), Clock(committed))


def tell_costs(jobs: Sequence[Job], pairs: int, folder: str) -> None:
    """A row for each pair, as it comes, and what they say together."""
    on, off = jobs
    spent: list[list[Spent]] = []
    print("  pair   CPU: replay   none   none once more   ratio   of none")
    for pair in range(pairs):
        order = [0, 1, 2] if pair % 2 else [2, 1, 0]  # who is first is no better off
        found = take_turns([(on, off, off)[place] for place in order], folder)
        spent.append([found[order.index(place)] for place in range(3)])
        kept, plain, control = (each.cpu for each in spent[-1])
        print(
            f"{pair + 1:3}/{pairs:<3} {kept:10.3f} s {plain:6.3f} s {control:12.3f} s "
            f"{kept / plain:9.4f} {control / plain:9.4f}",
            flush=True,
        )
    for what in ("CPU", "wall"):
        seconds = np.array([[getattr(each, what.lower()) for each in row] for row in spent])
        kept, plain, control = np.median(seconds, axis=0)
        print(
            f"{what:>5}: replay {kept:.3f} s, none {plain:.3f} s, once more {control:.3f} s for "
            f"{on.config.iterations} iterations; ratio {told(seconds[:, 0], seconds[:, 1])}, of "
            f"none {told(seconds[:, 2], seconds[:, 1])}, {pairs} pairs"
        )


def told(one: Seconds, other: Seconds) -> str:
    """The ratio of their medians, with an interval where there is one."""
    ratio = f"{np.median(one) / np.median(other):.4f}"
    if len(one) < FEWEST:
        return ratio
    low, high = interval(one, other)
    return f"{ratio} (95 % {low:.4f} … {high:.4f})"


def interval(one: npt.ArrayLike, other: npt.ArrayLike) -> tuple[float, float]:
    """95 % of the ratios of medians that pairs drawn anew have."""
    one, other = np.asarray(one), np.asarray(other)
    places = np.random.default_rng(0).integers(len(one), size=(4000, len(one)))
    ratios = np.median(one[places], axis=1) / np.median(other[places], axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


class Turn(Exception):
    """An iteration is committed: it is the next run's."""


@dataclass
class Spent:
    """Seconds of a run."""

    cpu: float = 0.0
    wall: float = 0.0


def take_turns(jobs: Sequence[Job], folder: str) -> list[Spent]:
    """Of runs that go on by an iteration each, in their order."""

    def turn() -> None:
        raise Turn

    runs = [(made(job, f"{folder}/{place}", turn), Spent()) for place, job in enumerate(jobs)]
    gc.collect()  # runs before are over, and nobody pays for them
    left = list(runs)
    while left:
        for assembly, spent in list(left):
            cpu, wall = time.process_time(), time.perf_counter()
            try:
                assembly.run()
                left.remove((assembly, spent))
            except Turn:
                pass
            spent.cpu += time.process_time() - cpu
            spent.wall += time.perf_counter() - wall
    return [spent for _, spent in runs]


def tell_bytes(job: Job, folder: str) -> None:
    """What a seat keeps at most, and what copies add to what is sent."""
    assembly = made(job, folder)
    most = 0

    def look(to: Address, message: object) -> None:
        nonlocal most
        workers = [a for a in assembly.runtime.actors.values() if isinstance(a, StageWorker)]
        most = max(most, max(worker.replayable.log.bytes for worker in workers))

    assembly.run(look)
    sent = assembly.runtime.traffic.bytes
    crossing = sent["Activation"] + sent["Gradient"]
    share = sent["KeepState"] / crossing
    print(
        f"bytes: log of a seat at most {render_bytes(most)}; copies {share:.1%} of activations and "
        "gradients"
    )


def tell_replays(config: Config, count: int, folder: str) -> None:
    """Of a seat that is lost in the middle: seconds of a replayed iteration over its own."""
    job = of_config(config, Path(), ())
    ratios = [replayed(job, folder) for _ in range(count)]
    low, middle, high = statistics.quantiles(ratios, n=4) if count > 1 else ratios * 3
    print(f"a replayed iteration: {middle:.3f} of its own (quartiles {low:.3f} … {high:.3f})")


def replayed(job: Job, folder: str) -> float:
    """The ratio of one run."""
    assembly, own, again = made(job, folder), Stopwatch(), Stopwatch()
    runtime, spawn = assembly.runtime, assembly.runtime._spawn

    def watch(worker: StageWorker) -> StageWorker:
        worker.advance = around(worker, own, again)  # type: ignore[method-assign]
        return worker

    runtime._spawn = lambda seat, life: watch(spawn(seat, life))  # type: ignore[arg-type]
    watch(assembly.workers[VICTIM])

    def strike(to: Address, message: object) -> None:
        worker = runtime.actors[VICTIM]
        due = assembly.lead.progress.committed == job.config.iterations // 2
        if due and isinstance(worker, StageWorker) and worker.life == 0:
            runtime.join(VICTIM, runtime.kill(VICTIM) + 1)

    assembly.run(strike)
    return again.each / own.each


class Stopwatch:
    """Seconds of so many iterations."""

    def __init__(self) -> None:
        self.seconds, self.iterations = 0.0, 0

    @property
    def each(self) -> float:
        return self.seconds / max(1, self.iterations)


def around(
    worker: StageWorker, own: Stopwatch, again: Stopwatch
) -> Callable[[], list[Outgoing] | None]:
    """Its ``advance``, timed: training apart from replays."""
    advance = worker.advance

    def timed() -> list[Outgoing] | None:
        before, replaying = worker.stage.version, worker._replay is not None
        since = time.perf_counter()
        out = advance()
        watch = again if replaying else own
        watch.seconds += time.perf_counter() - since
        watch.iterations += worker.stage.version == before + 1
        return out

    return timed


if __name__ == "__main__":
    main()

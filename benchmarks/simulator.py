"""Simulated seconds of an in-process iteration over real ones, once profiled; to be within 15 %.

    python benchmarks/simulator.py [--rounds 3] [--iterations 10] [--simulated 20000]
        [key=value …]

Profiles the demo, trains it on one thread under several strategies with no failures, and prices
each run from the profile on the fleet ``thread``; in rounds, because a machine that others use
too is not as fast from one minute to the next. For the same reason seconds are those that the
process had of the processor: of one thread, on a machine of its own, that is the time. Then it
counts how many iterations a second the simulator does at 8 stages × 8 microbatches, with failures
and without; to be 1,000.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from checkfree.config.load import load
from checkfree.core.config import Config
from checkfree.core.records import IterationRecord, Record
from checkfree.session.price import price
from checkfree.session.profile import profile
from checkfree.session.train import train

WARM_UP = 3
NOTHING_ELSE = ["failures=none", "validation.every=0", "resume.every=0"]
STRATEGIES = ("none", "checkfree_plus", "redundant")
SPEEDS = (
    ["failures=none", "recovery=checkfree_plus"],
    ["failures.probability=0.002", "recovery=random"],
    ["failures.probability=0.0005", "recovery=checkpoint(interval=50)"],
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=10, help="of a run in each of them")
    parser.add_argument("--simulated", type=int, default=20_000, help="iterations")
    parser.add_argument("words", nargs="*", metavar="key=value", help="of the trained runs")
    given = parser.parse_args()
    ratios: dict[str, list[float]] = {strategy: [] for strategy in STRATEGIES}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.rounds):
            for strategy, ratio in one_round(Path(folder), number, given.iterations, given.words):
                ratios[strategy].append(ratio)
    print("simulated over real seconds of an iteration, median of rounds (lowest … highest)")
    for strategy, found in ratios.items():
        middle, low, high = statistics.median(found), min(found), max(found)
        print(f"{strategy:>15} {middle:.3f} ({low:.3f} … {high:.3f})")
    for words in SPEEDS:
        made = speed(words, given.simulated)
        print(f"{made:,.0f} simulated iterations per second at 8 × 8, {' '.join(words)}")


def one_round(
    folder: Path, number: int, iterations: int, more: list[str]
) -> Iterator[tuple[str, float]]:
    """Strategies and their ratios, each from a run right after a profile."""
    words = [*NOTHING_ELSE, f"iterations={WARM_UP + iterations}", *more]
    file = folder / "profile.json"
    config = load("demo", [*words, f"out={folder}"])
    file.write_text(json.dumps(profile(config, iterations, silent, time.process_time)))
    for strategy in STRATEGIES:
        fleet = ["fleet.name=thread", f"fleet.profile={file}"]
        out = f"out={folder}/{strategy}-{number}"
        config = load("demo", [*words, *fleet, f"recovery={strategy}", out])
        yield strategy, simulated_seconds(config) / real_seconds(config)


def real_seconds(config: Config) -> float:
    """Median of the iterations of a run, in seconds of the processor."""
    times: list[float] = []

    def tick(record: Record) -> None:
        if isinstance(record, IterationRecord):
            times.append(time.process_time())

    train(config, listeners=[tick])
    return statistics.median(b - a for a, b in itertools.pairwise(times[WARM_UP:]))


def simulated_seconds(config: Config) -> float:
    """Mean of the iterations; they are all alike."""
    priced = price(config)
    return priced.ends[-1] / len(priced.ends)


def speed(words: list[str], iterations: int) -> float:
    """Simulated iterations per second, the making of the simulation included."""
    size = ["stages=8", "microbatches=8", "model.blocks=8", f"iterations={iterations}"]
    config = load("demo", [*size, *words, "validation.every=0"])
    start = time.process_time()
    priced = price(config)
    return len(priced.ends) / (time.process_time() - start)


def silent(label: str, iterations: int) -> Callable[[], None]:
    """Shows no progress."""
    return lambda: None


if __name__ == "__main__":
    main()

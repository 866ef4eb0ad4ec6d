"""A soak: SIGKILL one process of a swarm after the other, and see how soon training goes on.

    python benchmarks/kills.py --kills 100 --seed 0

Seats are drawn at random, the lead among them (--no-lead leaves it out). Printed are the medians
of the phases from a kill to the next committed iteration, how much the processes grew, and whether
anything was left when the run was stopped. Exits with 1 if the run ended by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from checkfree.errors import BadInput
from checkfree.record import RECORDS
from checkfree.runtime.swarm.processes.control import ask
from checkfree.runtime.swarm.processes.home import Home

WORDS = [
    *("iterations=1000000", "stages=4", "microbatches=4", "batch=1", "data.name=text"),
    *("failures=none", "recovery=checkfree_plus", "validation.every=0", "resume.every=200"),
    *("model.width=32", "model.heads=2", "model.hidden=64", "model.blocks=4", "model.context=32"),
]
LEAD = "lead"
DEADLINE = 60.0  # seconds, for anything that has to happen
CALM = 3  # iterations between a recovery and the next kill
GROWS_UP = 20  # iterations after which a process has all the memory that it needs


@dataclass(frozen=True)
class Kill:
    """Wall-clock moments of one kill, in seconds; ``noticed`` and ``back`` None for the lead."""

    seat: str
    at: float
    noticed: float | None
    back: float | None
    committed: float


class Records:
    """The iterations that a run has committed, read as they are written."""

    def __init__(self, run: Path):
        self._path, self._place = run / RECORDS, 0
        self.ticks, self.seconds = 0, 0.0
        self.plans = 0

    def read(self) -> None:
        if not self._path.exists():
            return
        with open(self._path, "rb") as file:
            file.seek(self._place)
            *lines, _ = file.read().split(b"\n")
        self._place += sum(len(line) + 1 for line in lines)
        for line in lines:
            record = json.loads(line)
            if record["kind"] == "iteration":
                self.ticks, self.seconds = record["tick"] + 1, record["seconds"]
            self.plans += record["kind"] == "plan"


class Soak:
    """A living run, and what was done to it."""

    def __init__(self, run: Path, process: subprocess.Popen[bytes], seed: int):
        self.home, self._process = Home.of(run), process
        self.records, self._draw = Records(run), random.Random(seed)
        self.kills: list[Kill] = []
        self.iterations: list[float] = []
        self.memory: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for something that has to happen; returns what the condition did."""
        end = time.monotonic() + DEADLINE
        while not (found := condition()):
            if self._process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{what}: not within {DEADLINE:g} s, or the run ended")
            time.sleep(0.002)
        return found

    def advance(self, ticks: int) -> None:
        """So many more iterations."""
        goal = self.records.ticks + ticks

        def there() -> bool:
            before = self.records.ticks
            self.records.read()
            if self.records.ticks > before:
                self.iterations.append(self.records.seconds)
            return self.records.ticks >= goal

        self.until(there, f"tick {goal}")

    def status(self) -> dict[str, Any]:
        return ask(self.home, {"ask": "status"})

    def kill(self, seats: Sequence[str]) -> None:
        """One of these, and wait until the next iteration is committed."""
        before = self.status()
        seat = self._draw.choice([s for s in seats if before["processes"][s]["process"]])
        since = len(before["events"]) and before["events"][-1]["at"]
        try:
            told = ask(self.home, {"ask": "kill", "seat": seat, "signal": "KILL"})
        except BadInput:  # died by another cause this very moment
            return
        self.records.read()
        self.advance(1)
        committed = time.time()
        events = [e for e in self.status()["events"] if e["at"] >= since and e.get("seat") == seat]
        noticed = _at(events, "lost", told["at"])
        self.kills.append(Kill(seat, told["at"], noticed, _at(events, "here", noticed), committed))

    def weigh(self) -> None:
        """Memory of every process, by (seat, pid), in bytes that are its own."""
        for seat, child in self.status()["processes"].items():
            if child["process"] and (size := own_bytes(child["pid"])):
                self.memory[seat, child["pid"]].append((self.records.ticks, size))

    def growth(self) -> float:
        """The largest share by which a process grew, once it was GROWS_UP iterations old."""
        shares = [0.0]
        for samples in self.memory.values():
            grown = [size for tick, size in samples if tick >= samples[0][0] + GROWS_UP]
            if len(grown) > 1:
                shares.append(grown[-1] / grown[0] - 1)
        return max(shares)


def _at(events: Sequence[dict[str, Any]], what: str, after: float | None) -> float | None:
    found = [e["at"] for e in events if e["event"] == what and after and e["at"] >= after]
    return min(found, default=None)


def own_bytes(pid: int) -> int:
    """Memory that the process shares with nobody; 0: it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(x.split()[1]) for x in lines if x.startswith(("Private_Cl", "Private_D")))


@contextmanager
def swarm(folder: Path, words: Sequence[str], seed: int) -> Iterator[Soak]:
    """A run that allows kills, stopped by Ctrl-C at the end."""
    (folder / "text.txt").write_text("the lost stage of a neighbour is a mean\n" * 4000)
    (folder / "empty.yaml").write_text("{}\n")
    run, log = folder / "run", open(folder / "log", "wb")  # noqa: SIM115 (closed below)
    data = [f"data.path={folder}/text.txt", f"out={run}"]
    command = [sys.executable, "-m", "checkfree", "swarm", "up", str(folder / "empty.yaml")]
    command += [*WORDS, *data, "--chaos", "--quiet", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HIVEMIND_LOGLEVEL": "ERROR"}
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        soak = Soak(run, process, seed)
        soak.advance(5)
        yield soak
        process.send_signal(signal.SIGINT)
        process.wait(DEADLINE)
    finally:
        process.kill()
        process.wait()
        log.close()
        left = soak.home.processes()
        print(f"left over: {len(left)} processes, sockets: {soak.home.sockets.exists()}")
        soak.home.sweep()


def report(soak: Soak) -> None:
    """The figures, one a line."""
    seats = [kill for kill in soak.kills if kill.seat != LEAD]
    leads = [kill for kill in soak.kills if kill.seat == LEAD]
    iteration = median(soak.iterations)
    print(f"{len(soak.kills)} kills, {len(leads)} of the lead; {soak.records.ticks} iterations")
    print(f"iteration           {1000 * iteration:7.0f} ms")
    noticed = [kill.noticed - kill.at for kill in seats if kill.noticed]
    back = [kill.back - kill.noticed for kill in seats if kill.noticed and kill.back]
    then = [kill.committed - kill.back for kill in seats if kill.back]
    for name, values in (
        ("kill to noticed", noticed),
        ("noticed to replaced", back),
        ("replaced to commit", then),
        ("kill to commit", [kill.committed - kill.at for kill in seats]),
        ("lead: kill to commit", [kill.committed - kill.at for kill in leads]),
    ):
        if values:
            worst = f"worst {1000 * max(values):6.0f} ms"
            print(f"{name:20}{1000 * median(values):7.0f} ms, {worst}, {len(values)} of them")
    print(f"largest growth of a process {100 * soak.growth():.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-lead", action="store_true")
    arguments, words = parser.parse_known_args()
    with (
        tempfile.TemporaryDirectory(prefix="checkfree-soak-") as name,
        swarm(Path(name), words, arguments.seed) as soak,
    ):
        seats = [s for s in soak.status()["processes"] if s != LEAD or not arguments.no_lead]
        for _ in range(arguments.kills):
            soak.kill(seats)
            soak.advance(CALM)
            soak.weigh()
        report(soak)


if __name__ == "__main__":
    main()

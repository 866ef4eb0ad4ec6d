"""A swarm that lives, for benchmarks that disturb it: what it has committed, and who sits where."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from checkfree.core.records import IterationRecord, Record
from checkfree.messages.recorded import read_record
from checkfree.runtime.swarm.processes.control import ask
from checkfree.runtime.swarm.processes.workdir import Workdir
from checkfree.runtime.tail import Tail

DEADLINE = 60.0  # seconds, for anything that has to happen
BY_LIBP2P = ("--link", "98 99 latency=1ms")
"""Two seats that nobody has: where a line is emulated, no stream goes past the daemons."""


class Records:
    """What a run writes down, read as it is written."""

    def __init__(self, run: Path):
        self.read = Tail(run, lambda record: self._heard(read_record(record)))
        self.ticks, self.seconds = 0, 0.0
        self.seen: list[tuple[float, Record]] = []
        """All but the iterations, and when they were read, on the clock."""

    def _heard(self, record: Record) -> None:
        if isinstance(record, IterationRecord):
            self.ticks, self.seconds = record.tick + 1, record.seconds or 0.0
        else:
            self.seen.append((time.time(), record))

    def since(self, at: float, kind: str) -> list[tuple[float, Any]]:
        """Those of a kind that were read after a moment."""
        return [(when, r) for when, r in self.seen if when >= at and r.kind == kind]


class Living:
    """A run, and the process that launched it."""

    def __init__(self, run: Path, process: subprocess.Popen[bytes]):
        self.workdir, self.process = Workdir.of(run), process
        self.records = Records(run)
        self.iterations: list[float] = []
        self.ticks: list[int] = []
        """Of ``iterations``: their number, from 0."""

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for something that has to happen; returns what the condition did."""
        end = time.monotonic() + DEADLINE
        while not (found := condition()):
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{what}: not within {DEADLINE:g} s, or the run ended")
            time.sleep(0.002)
        return found

    def read(self) -> int:
        """Ticks so far; the time of the last is noted if it is new."""
        before = self.records.ticks
        self.records.read()
        if self.records.ticks > before:
            self.iterations.append(self.records.seconds)
            self.ticks.append(self.records.ticks - 1)
        return self.records.ticks

    def advance(self, ticks: int) -> None:
        """So many more iterations."""
        goal = self.records.ticks + ticks
        self.until(lambda: self.read() >= goal, f"tick {goal}")

    def status(self) -> dict[str, Any]:
        """As the launcher tells it."""
        return ask(self.workdir, {"ask": "status"})


@contextmanager
def living(folder: Path, words: Sequence[str]) -> Iterator[Living]:
    """A run that allows kills, stopped by Ctrl-C at the end; then tells what is left of it."""
    (folder / "text.txt").write_text("the lost stage of a neighbour is a mean\n" * 4000)
    (folder / "empty.yaml").write_text("{}\n")
    run, log = folder / "run", open(folder / "log", "wb")  # noqa: SIM115 (closed below)
    data = ["data.name=text", f"data.path={folder}/text.txt", f"out={run}"]
    command = [sys.executable, "-m", "checkfree", "swarm", "up", str(folder / "empty.yaml")]
    command += [*data, "--chaos", "--quiet", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HIVEMIND_LOGLEVEL": "ERROR"}
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        swarm = Living(run, process)
        swarm.advance(5)
        yield swarm
        process.send_signal(signal.SIGINT)
        process.wait(DEADLINE)
    finally:
        process.kill()
        process.wait()
        log.close()
        left = swarm.workdir.processes()
        print(f"left over: {len(left)} processes, sockets: {swarm.workdir.sockets.exists()}")
        swarm.workdir.kill_leftovers()

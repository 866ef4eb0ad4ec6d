"""A lead and its nodes on this machine, for benchmarks that let nodes come and go.

Nodes are forks of a process that has imported all: what is measured is a fleet, not how long one
machine of few cores takes to start many processes.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from living import DEADLINE, Records

from checkfree.cli import main as main_of_checkfree
from checkfree.runtime.swarm.processes.workdir import Workdir

sys.path.append(os.fspath(Path(__file__).parents[1]))
from tests.process.zygote import enter

WORDS = [
    *("iterations=1000000", "stages=4", "microbatches=8", "batch=2", "failures=none"),
    *("model.width=64", "model.heads=4", "model.hidden=128", "model.blocks=8", "model.context=64"),
    *("validation.every=0", "checkpoint.every=50", "recovery=auto"),
]
"""Five seats: four body stages, and the ends."""
COMMAND = (sys.executable, "-m", "checkfree")


class Node:
    """One of the machines; ``pid`` of the process that lives there, 0: none does. ``space``: its
    network namespace, if it has one."""

    def __init__(self, name: str, space: str = ""):
        self.name, self.space, self.pid = name, space, 0

    def gone(self) -> bool:
        """Whether no process lives; one that has ended is buried."""
        if self.pid and os.waitpid(self.pid, os.WNOHANG)[0]:
            self.pid = 0
        return not self.pid

    def send(self, number: signal.Signals) -> None:
        """Nothing, if it is gone."""
        if not self.gone():
            os.kill(self.pid, number)

    def kill(self) -> None:
        """At once; its forks die with it."""
        if not self.gone():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


class Fleet:
    """A lead that nobody kills, and nodes, of which none is started: so many on this machine's own
    network, or each, the lead first, in one of the network namespaces ``spaces``."""

    def __init__(self, folder: Path, count: int, *words: str, spaces: Sequence[str] = ()):
        self._folder, self.run = folder, folder / "run"
        self._log = open(folder / "log", "ab")  # noqa: SIM115 (closed at the end)
        own, *others = spaces or [""] * (count + 1)
        self.nodes = [Node(f"node-{number}", space) for number, space in enumerate(others)]
        self.records = Records(self.run)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HIVEMIND_LOGLEVEL": "ERROR"}
        there = ["ip", "netns", "exec", own] if own else []
        command = [*there, *COMMAND, "swarm", "lead", "small.yaml", *WORDS, *words, "out=run"]
        self.lead = subprocess.Popen(
            [*command, f"--listen={'0.0.0.0' if own else '127.0.0.1'}:0"],
            cwd=folder,
            stdout=self._log,
            stderr=self._log,
            env=environment,
        )
        self._line = self._joined_by()

    def said(self) -> str:
        """By the lead and all nodes."""
        return (self._folder / "log").read_text(errors="replace")

    def start(self, node: Node, *words: str) -> None:
        """Have it join."""
        node.pid = self._forked(node.space, *self._line, f"--host={node.name}", *words)

    def wait_for_first(self) -> None:
        """Iteration. Raises SystemExit if it never comes."""
        end = time.monotonic() + 2 * DEADLINE
        while self.records.ticks == 0:
            self.records.read()
            if time.monotonic() > end or self.lead.poll() is not None:
                raise SystemExit(f"it never began:\n{self.said()[-2000:]}")
            time.sleep(0.02)

    def verifies(self) -> bool:
        """Whether the run, which is over, trains the same bits again."""
        command = [*COMMAND, "verify", "run", "--quiet"]
        made = subprocess.run(command, cwd=self._folder, stdout=subprocess.DEVNULL)
        return made.returncode == 0

    def keep(self, folder: str) -> None:
        """A copy of all of the run, to look into."""
        shutil.copytree(self._folder, Path(folder) / f"{time.time():.0f}")

    def end(self) -> None:
        """All of it; once is enough."""
        if self._log.closed:
            return
        self.lead.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self.lead.wait(DEADLINE)
        self.lead.kill()
        self.lead.wait()
        for node in self.nodes:
            node.kill()
        Workdir.of(self.run).kill_leftovers()
        self._log.close()

    def _forked(self, space: str, *words: str) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            os.setsid()
            if space:
                enter(space)
            os.chdir(self._folder)
            for target in (1, 2):
                os.dup2(self._log.fileno(), target)
            code = main_of_checkfree(words)
        finally:
            os._exit(code)

    def _joined_by(self) -> list[str]:
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end and self.lead.poll() is None:
            if found := re.search(r"^checkfree (swarm join \S+ --token \S+)$", self.said(), re.M):
                return found.group(1).split()
            time.sleep(0.05)
        raise SystemExit(f"no lead:\n{self.said()[-2000:]}")


@contextmanager
def fleet(count: int, *words: str, spaces: Sequence[str] = ()) -> Iterator[Fleet]:
    """In a folder of its own, with a text to train on; ended when the context ends."""
    with tempfile.TemporaryDirectory(prefix="checkfree-fleet-") as name:
        folder = Path(name)
        (folder / "text.txt").write_text("the lost stage of a neighbour is a mean\n" * 4000)
        (folder / "small.yaml").write_text("data: {name: text, path: text.txt}\n")
        made = Fleet(folder, count, *words, spaces=spaces)
        try:
            yield made
        finally:
            made.end()


def prepare() -> None:
    """Import all that a node needs, once for all forks."""
    os.environ["HIVEMIND_LOGLEVEL"] = "ERROR"
    importlib.import_module("checkfree.session.swarm.member")

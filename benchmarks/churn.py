"""A fleet whose nodes come and go: how much of it still trains.

    python benchmarks/churn.py [--seeds 5] [--seconds 300] [--nodes 7] [--life 60] [--away 12]

Real nodes (``swarm join``) of one machine, under a lead that nobody kills. Each lives and is away
for times that are drawn (exponential, seeded, the same for all ways), six of ten end with a notice:
SIGTERM, and SIGKILL --notice seconds later; the others by SIGKILL at once. They are forks of a
process that has imported all, and --start seconds late instead: what is measured is a fleet, not
how long one machine of few cores takes to start many processes. Three ways, in turn, for each seed:
nodes that take two seats where they must, nodes of one seat, and the first without any churn.
Printed are medians over seeds and their ratios: iterations, seconds for which a stage had nobody,
the longest time between two commits while somebody lived, rollbacks; and whether ``replay`` trains
the same bits (--no-replay doesn't ask). Exits with 1 if a run ended by itself, or differs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from living import DEADLINE, Records

from checkfree.cli import main as main_of_checkfree
from checkfree.record import of_kind, read
from checkfree.runtime.swarm.processes.home import Home

WORDS = [
    *("iterations=1000000", "stages=4", "microbatches=8", "batch=2", "failures=none"),
    *("model.width=64", "model.heads=4", "model.hidden=128", "model.blocks=8", "model.context=64"),
    *("validation.every=0", "checkpoint.every=50", "recovery=auto"),
]
NOTICED = 0.6
"""Of all ends, those that are told beforehand."""
BACK = ("snapshot", "checkpoint")
"""Rules that take everybody back."""
KEPT = os.environ.get("CHURN_KEPT", "")
"""A folder that gets all of each run, for who wants to know why."""
COMMAND = (sys.executable, "-m", "checkfree")


@dataclass(frozen=True)
class Span:
    """A life of a node: seconds since the start, and whether its end is told."""

    start: float
    end: float
    told: bool


def spans(
    seed: int, node: int, seconds: float, life: float, away: float, start: float
) -> list[Span]:
    """What is drawn for one node, which is there from the beginning."""
    draw, made, at = random.Random(f"{seed}/churn/{node}"), list[Span](), 0.0
    while at < seconds:
        end = at + draw.expovariate(1 / life)
        made.append(Span(at, end, draw.random() < NOTICED))
        at = end + draw.expovariate(1 / away) + start
    return made


@dataclass
class Node:
    """One of the machines; ``pid`` of the process that lives there, ``killed_at`` when it will be
    killed that was told of its end."""

    name: str
    due: list[Span]
    pid: int = 0
    killed_at: float = float("inf")

    def gone(self) -> bool:
        """Whether no process lives; one that has ended is buried."""
        if self.pid and os.waitpid(self.pid, os.WNOHANG)[0]:
            self.pid, self.killed_at = 0, float("inf")
        return not self.pid

    def kill(self) -> None:
        """At once."""
        if not self.gone():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid, self.killed_at = 0, float("inf")


@dataclass
class Found:
    """What one run has shown."""

    iterations: int = 0
    vacant: float = 0.0
    longest: float = 0.0
    rollbacks: int = 0
    same: bool = True
    ended: bool = False
    commits: list[float] = field(default_factory=list)


class Fleet:
    """A lead, and nodes by their spans."""

    def __init__(
        self,
        folder: Path,
        seats: int,
        nodes: Sequence[Sequence[Span]],
        seconds: float,
        notice: float,
    ):
        self._folder, self._seats, self._seconds, self._notice = folder, seats, seconds, notice
        self._nodes = [Node(f"node-{n}", list(due)) for n, due in enumerate(nodes)]
        self._log = open(folder / "log", "wb")  # noqa: SIM115 (closed at the end)
        self._records = Records(folder / "run")
        self._found = Found()

    def run(self) -> Found:
        """For as long as was asked, after the first commit."""
        lead = self._started(
            "swarm", "lead", "small.yaml", *WORDS, "out=run", "--listen=127.0.0.1:0"
        )
        try:
            line = self._line(lead)
            for node in self._nodes:
                self._start(node, line)
            self._wait_for_first(lead)
            self._follow(lead, line)
        finally:
            self._end(lead)
        self._judge()
        if KEPT:
            shutil.copytree(self._folder, Path(KEPT) / f"{time.time():.0f}")
        return self._found

    def _started(self, *words: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HIVEMIND_LOGLEVEL": "ERROR"}
        return subprocess.Popen(
            [*COMMAND, *words],
            cwd=self._folder,
            stdout=self._log,
            stderr=self._log,
            env=environment,
        )

    def _forked(self, *words: str) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            os.setsid()
            os.chdir(self._folder)
            for target in (1, 2):
                os.dup2(self._log.fileno(), target)
            code = main_of_checkfree(words)
        finally:
            os._exit(code)

    def _line(self, lead: subprocess.Popen[bytes]) -> list[str]:
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end and lead.poll() is None:
            text = (self._folder / "log").read_text(errors="replace")
            if found := re.search(r"^checkfree (swarm join \S+ --token \S+)$", text, re.M):
                return found.group(1).split()
            time.sleep(0.05)
        raise SystemExit("no lead")

    def _start(self, node: Node, line: Sequence[str]) -> None:
        node.pid = self._forked(*line, f"--seats={self._seats}", f"--host={node.name}")

    def _wait_for_first(self, lead: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + 2 * DEADLINE
        while self._records.ticks == 0:
            self._records.read()
            if time.monotonic() > end or lead.poll() is not None:
                raise SystemExit("it never began")
            time.sleep(0.02)

    def _follow(self, lead: subprocess.Popen[bytes], line: Sequence[str]) -> None:
        began, before = time.monotonic(), self._records.ticks
        last = began
        while (now := time.monotonic() - began) < self._seconds and lead.poll() is None:
            for node in self._nodes:
                self._attend(node, now, line)
            ticks = self._records.ticks
            self._records.read()
            if self._records.ticks > ticks:
                self._found.commits += [now] * (self._records.ticks - ticks)
            if self._records.ticks > ticks or all(node.gone() for node in self._nodes):
                last = time.monotonic()
            self._found.longest = max(self._found.longest, time.monotonic() - last)
            time.sleep(0.02)
        self._found.iterations = self._records.ticks - before
        self._found.ended = lead.poll() is not None

    def _attend(self, node: Node, now: float, line: Sequence[str]) -> None:
        """As is drawn."""
        if now >= node.killed_at:
            node.kill()
        if not node.due:
            return
        span = node.due[0]
        if now >= span.end:
            node.due.pop(0)
            if not span.told:
                node.kill()
            elif not node.gone():
                node.killed_at = now + self._notice
                os.kill(node.pid, signal.SIGTERM)
        elif now >= span.start and node.gone():
            self._start(node, line)

    def _end(self, lead: subprocess.Popen[bytes]) -> None:
        lead.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            lead.wait(DEADLINE)
        lead.kill()
        lead.wait()
        for node in self._nodes:
            node.kill()
        Home.of(self._folder / "run").sweep()
        self._log.close()

    def _judge(self) -> None:
        text = (self._folder / "log").read_text(errors="replace")
        self._found.vacant = _vacant(text)
        plans = of_kind(read(self._folder / "run"), "plan")
        rules = [{made["rule"] for made in plan["rebuilds"].values()} for plan in plans]
        self._found.rollbacks = sum(bool(made & set(BACK)) for made in rules)


def _vacant(text: str) -> float:
    """Seconds for which the lead said that it waits for a stage, as its lines are timed."""
    total, since = 0.0, None
    text = text[text.find("every seat is taken") :]
    for stamp, told in re.findall(r"^checkfree: (\S+Z) (vacant.*|every seat.*)$", text, re.M):
        at = time.mktime(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ"))
        if since is not None:
            total += at - since
        since = at if "nobody has stage" in told else None
    return total


@contextmanager
def prepared() -> Iterator[Path]:
    """A folder with a text to train on."""
    with tempfile.TemporaryDirectory(prefix="checkfree-churn-") as name:
        folder = Path(name)
        (folder / "text.txt").write_text("the lost stage of a neighbour is a mean\n" * 4000)
        (folder / "small.yaml").write_text("data: {name: text, path: text.txt}\n")
        yield folder


def measured(arguments: argparse.Namespace, seed: int, seats: int, *, churn: bool) -> Found:
    """One run."""
    drawn = [
        spans(seed, n, arguments.seconds, arguments.life, arguments.away, arguments.start)
        for n in range(arguments.nodes)
    ]
    with prepared() as folder:
        nodes = drawn if churn else [[] for _ in drawn]
        found = Fleet(folder, seats, nodes, arguments.seconds, arguments.notice).run()
        if arguments.replay and not found.ended:
            command = [*COMMAND, "replay", "run", "--quiet"]
            found.same = (
                subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL).returncode == 0
            )
    return found


def main() -> None:
    os.environ["HIVEMIND_LOGLEVEL"] = "ERROR"
    importlib.import_module("checkfree.build.join")  # once, for all forks
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--nodes", type=int, default=7)
    parser.add_argument("--life", type=float, default=60.0)
    parser.add_argument("--away", type=float, default=12.0)
    parser.add_argument("--start", type=float, default=10.0)
    parser.add_argument("--notice", type=float, default=30.0)
    parser.add_argument("--seats", type=int, default=2)
    parser.add_argument("--no-replay", dest="replay", action="store_false")
    arguments = parser.parse_args()
    ways = {
        f"up to {arguments.seats} seats": (arguments.seats, True),
        "one seat": (1, True),
        "no churn": (arguments.seats, False),
    }
    made: dict[str, list[Found]] = {name: [] for name in ways}
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for name, (seats, churn) in ways.items():
            found = measured(arguments, seed, seats, churn=churn)
            made[name].append(found)
            told = "" if found.same else ", REPLAY DIFFERS"
            print(
                f"seed {seed}, {name:14} {found.iterations:5} iterations, a stage with nobody for "
                f"{found.vacant:4.0f} s, longest gap {found.longest:5.1f} s, {found.rollbacks} "
                f"rollbacks{', ENDED' if found.ended else ''}{told}",
                flush=True,
            )
    medians = {name: median(f.iterations for f in found) for name, found in made.items()}
    several, one, calm = (medians[name] for name in ways)
    print(f"medians: {', '.join(f'{name} {value:g}' for name, value in medians.items())}")
    print(
        f"over one seat {several / max(1, one):.1f} x, over no churn {several / max(1, calm):.0%}"
    )
    if any(not f.same or f.ended for found in made.values() for f in found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

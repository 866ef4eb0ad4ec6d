"""From one node to as many as there are seats and back, in any order: how long nobody trains.

    python benchmarks/elastic.py [--walks 20] [--first-walk 0] [--pause 1.5] [--steady 30]

First one node after the other joins, up to one more than there are seats, and so many iterations
are timed once the seats stay where they are: by the number of nodes, seconds per iteration beside
the ideal of this machine (what all seats compute, over the cores that their processes can use);
and what a seat's process has for itself in memory, beside its libp2p daemon. Then the walks. Nodes
join (a fork of a prepared process, see fleet.py), leave with a notice (SIGTERM) or are killed
(SIGKILL), as is drawn for each walk, with pauses that are drawn, too, and don't wait for anything
to end. The last one that can train never goes. Printed are, of all gaps between two commits, the
longest and those above 3 s + 2 x the median iteration; and how long a hand-over, with or without a
notice, keeps the others from training. Exits with 1 if a gap was too long, or ``verify`` differs.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from fleet import Fleet, Node, fleet, prepare
from living import DEADLINE

from checkfree.core.records import RecoveryRecord
from checkfree.core.units import render_bytes, render_utc
from checkfree.runtime.swarm.processes.control import ask
from checkfree.runtime.swarm.processes.workdir import Workdir

SEATS = 5
ALLOWED, MEDIANS = 3.0, 2.0
"""Seconds, and median iterations, that may pass between two commits; and one copy of a state, which
takes a hundredth of a second here and is left out."""
JOIN, NOTICE, KILL = "joins", "leaves", "is killed"
SETTLED = 6.0
"""Seconds without a move."""
LOOK_EVERY = 0.5
"""Seconds between two looks at who has which seat."""


def steps(walk: int, most: int = SEATS) -> Iterator[tuple[str, float]]:
    """What happens, and the pause after it: up to so many nodes, and down to one."""
    draw, nodes, upwards = random.Random(f"{walk}/elastic"), 1, True
    while upwards or nodes > 1:
        joins = draw.random() < (0.75 if upwards else 0.25)
        may_join = nodes == 1 or (joins and nodes <= most)
        what = JOIN if may_join else draw.choice((NOTICE, KILL))
        nodes += 1 if what == JOIN else -1
        upwards = upwards and nodes < most
        yield what, draw.random()


class Walker:
    """Follows the walks, and what was committed meanwhile."""

    def __init__(self, made: Fleet, pause: float):
        self._fleet, self._pause = made, pause
        self._workdir = Workdir.of(made.run)
        self._at = self._looked = time.monotonic()
        self._seated: list[dict[str, Any]] = []
        self._busy: dict[str, float] = {}
        self.gaps: list[tuple[float, str]] = []
        """Between two commits, and what happened last."""
        self.paces: list[float] = []
        self._happened = "the first commit"

    def steady(self, ticks: int) -> None:
        """By the number of nodes, seconds per iteration; they are let go again at the end."""
        for count, node in enumerate(self._fleet.nodes, 1):
            if node.gone():
                self._fleet.start(node, f"--seats={SEATS}")
            self._settle(min(count, SEATS))
            goal, first = self._fleet.records.ticks + ticks, len(self.paces)
            while self._fleet.records.ticks < goal and self._fleet.lead.poll() is None:
                self.follow(0.1)
            self._look()
            cores = min(os.cpu_count() or 1, SEATS)
            print(
                f"{count} nodes: {median(self.paces[first:]):.3f} s per iteration beside an ideal "
                f"of {sum(self._busy.values()) / cores:.3f} s",
                flush=True,
            )
            if count == 1:
                own = [own_bytes(pid) for pid in children(node.pid)]
                seats = sorted(own)[-SEATS:]
                print(f"a seat has {render_bytes(median(seats))} for itself")
        for node in self._fleet.nodes[1:]:
            self._leaves(node)
        self.gaps.clear()

    def _settle(self, nodes: int) -> None:
        """So many nodes have seats, and for some seconds the same ones."""
        since, before = time.monotonic(), list[Any]()
        end = since + DEADLINE
        while time.monotonic() < since + SETTLED and time.monotonic() < end:
            self.follow(LOOK_EVERY)
            self._look()
            now = [(node["host"], sorted(node["seats"])) for node in self._seated]
            if now != before or len(now) != nodes:
                since, before = time.monotonic(), now

    def walk(self, number: int, most: int) -> None:
        """One of them, until only one node is left."""
        draw = random.Random(f"{number}/victims")
        for what, pause in steps(number, most):
            ready = self._ready()
            if what == JOIN:
                node = next(node for node in self._fleet.nodes if node.gone())
                self._fleet.start(node, f"--seats={SEATS}")
            else:
                alive = [node for node in self._fleet.nodes if not node.gone()]
                able = [node for node in alive if node.name in ready]
                spare = [node for node in alive if len(able) > 1 or node not in able]
                if not spare:
                    continue
                node = draw.choice(spare)
                node.kill() if what == KILL else self._leaves(node)
            self._happened = f"walk {number}: {node.name} {what} at {render_utc(time.time())}"
            self.follow(2 * self._pause * pause)

    def rest(self) -> None:
        """Until there is a commit, or it is clear that none comes."""
        end = time.monotonic() + DEADLINE
        before = self._fleet.records.ticks
        while self._fleet.records.ticks == before and time.monotonic() < end:
            self.follow(0.1)
        if self._fleet.records.ticks == before:
            raise SystemExit(
                f"it stands still after {self._happened}:\n{self._fleet.said()[-3000:]}"
            )

    def _leaves(self, node: Node) -> None:
        """And is gone before anything else happens, as its machine would be."""
        node.send(signal.SIGTERM)
        end = time.monotonic() + DEADLINE
        while not node.gone() and time.monotonic() < end:
            self.follow(0.05)
        node.kill()

    def follow(self, seconds: float) -> None:
        """Take down what is committed."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._fleet.lead.poll() is None:
            before = self._fleet.records.ticks
            self._fleet.records.read()
            now = time.monotonic()
            if self._fleet.records.ticks > before:
                self.gaps.append((now - self._at, self._happened))
                self._at = now
                self.paces.append(self._fleet.records.seconds)
            if time.monotonic() - self._looked > LOOK_EVERY:
                self._look()
            time.sleep(0.005)

    def _look(self) -> None:
        """Who has seats, and for how long they compute in an iteration."""
        self._looked = time.monotonic()
        status = ask(self._workdir, {"ask": "status"})
        self._seated = [node for node in status.get("nodes", ()) if node["seats"]]
        self._busy = status.get("busy", {})

    def _ready(self) -> set[str]:
        """Nodes that could have all seats if the others were gone."""
        self._look()
        nodes = ask(self._workdir, {"ask": "status"}).get("nodes", ())
        return {node["host"] for node in nodes if node["seats"] or node["spares"]}


def children(pid: int) -> list[int]:
    """Of a process that lives."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def own_bytes(pid: int) -> int:
    """What a process shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))


def told(name: str, values: list[float]) -> str:
    """Median and 95th percentile."""
    if len(values) < 2:
        return f"{name}: {len(values)}"
    last = quantiles(values, n=20)[-1]
    return f"{name}: {len(values)}, median {median(values):.3f} s, 95th percentile {last:.3f} s"


def main() -> None:
    prepare()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--walks", type=int, default=20)
    parser.add_argument("--first-walk", type=int, default=0)
    parser.add_argument(
        "--most",
        type=int,
        choices=range(2, SEATS + 1),
        default=SEATS,
        help="nodes at a time",
    )
    parser.add_argument("--pause", type=float, default=1.5, help="seconds, on average")
    parser.add_argument("--steady", type=int, default=30, metavar="TICKS", help="0: only walks")
    parser.add_argument("--slack", type=float, default=0.0, help="seconds more than are allowed")
    parser.add_argument("--keep", metavar="FOLDER", help="gets all of the run, to look into")
    parser.add_argument("--no-verify", dest="verify", action="store_false")
    parser.add_argument("words", nargs="*", metavar="key=value", help="of the configuration")
    arguments = parser.parse_args()
    with fleet(SEATS + 1, *arguments.words) as made:
        made.start(made.nodes[0], f"--seats={SEATS}")
        made.wait_for_first()
        walker = Walker(made, arguments.pause)
        if arguments.steady:
            walker.steady(arguments.steady)
        for number in range(arguments.first_walk, arguments.first_walk + arguments.walks):
            walker.walk(number, arguments.most)
            walker.rest()
            worst = max(walker.gaps)
            print(
                f"walk {number}: {made.records.ticks} iterations so far, longest gap "
                f"{worst[0]:.2f} s ({worst[1]})",
                flush=True,
            )
            if made.lead.poll() is not None:
                raise SystemExit(f"the run ended:\n{made.said()[-3000:]}")
        made.end()
        if arguments.keep:
            made.keep(arguments.keep)
        same = not arguments.verify or made.verifies()
        recoveries = [record for _, record in made.records.seen]
    report(recoveries)
    allowed = ALLOWED + MEDIANS * median(walker.paces) + arguments.slack
    late = sorted((gap for gap in walker.gaps if gap[0] > allowed), reverse=True)
    print(f"gaps above {allowed:.2f} s: {len(late)} of {len(walker.gaps)}; verified: {same}")
    for seconds, happened in late[:20]:
        print(f"  {seconds:.2f} s after {happened}")
    if late or not same:
        raise SystemExit(1)


def report(records: list[Any]) -> None:
    """How long repairs took, by how a seat's state came to somebody else."""
    ways: dict[str, list[float]] = defaultdict(list)
    for record in records:
        if isinstance(record, RecoveryRecord) and record.seconds is not None:
            rules = sorted({rebuilt.recipe.rule for rebuilt in record.rebuilds.values()})
            ways[" and ".join(rules)].append(record.seconds)
    for way, seconds in sorted(ways.items()):
        print(told(way, seconds))


if __name__ == "__main__":
    main()

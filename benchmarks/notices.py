"""Nodes that are told of their end, and killed at it: what becomes of their states.

    python benchmarks/notices.py [--notices 20] [--seed 0] [--shortest 4] [--longest 12]

A lead and four nodes, each a host of its own behind a narrow line (network namespaces: needs root),
five seats, and iterations of some seconds: many microbatches. One node after the other gets
SIGTERM, and SIGKILL 4 to 12 s later, as drawn, whatever it does then, or once it has ended by
itself; ``--notice-seconds`` has told it how long it has. Then it comes again. Exits with 1 if a
state was given back by a rule that is not exact, an iteration that was committed was trained again,
or ``verify`` differs.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import median

from fleet import Fleet, Node, fleet, prepare
from living import DEADLINE

from checkfree.core.records import of_kind, read
from checkfree.recovery.rungs import EXACT
from checkfree.runtime.swarm.processes.control import ask
from checkfree.runtime.swarm.processes.workdir import Workdir

sys.path.append(os.fspath(Path(__file__).parents[1]))
from tests.process.hosts import network

NODES, SEATS = 4, 2
WORDS = ("microbatches=96", "resume.every=5", "checkpoint.every=1000000")


def advance(made: Fleet, ticks: int) -> None:
    """Wait for so many more commits."""
    goal, end = made.records.ticks + ticks, time.monotonic() + DEADLINE
    while made.records.ticks < goal:
        made.records.read()
        if made.lead.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"it does not go on:\n{made.said()[-3000:]}")
        time.sleep(0.01)


def end(node: Node, seconds: float) -> float:
    """Its notice, and its end; returns after how many seconds nothing was left of it."""
    began = time.monotonic()
    node.send(signal.SIGTERM)
    while not node.gone() and time.monotonic() - began < seconds:
        time.sleep(0.01)
    node.kill()
    return time.monotonic() - began


def seats_of(made: Fleet, node: Node) -> int:
    """How many it has just now."""
    nodes = ask(Workdir.of(made.run), {"ask": "status"}).get("nodes", ())
    return next((len(found["seats"]) for found in nodes if found["host"] == node.name), 0)


def main() -> None:
    prepare()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--notices", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shortest", type=float, default=4.0)
    parser.add_argument("--longest", type=float, default=12.0)
    parser.add_argument("--rate", type=float, default=10.0, help="of each line, in Mbit/s")
    parser.add_argument("--keep", metavar="FOLDER", help="gets all of the run, to look into")
    arguments = parser.parse_args()
    draw, lasted = random.Random(f"{arguments.seed}/notices"), list[float]()
    notices: dict[str, float] = {}

    def start(node: Node) -> None:
        """With a notice that is drawn."""
        notices[node.name] = seconds = draw.uniform(arguments.shortest, arguments.longest)
        made.start(node, f"--seats={SEATS}", f"--notice-seconds={seconds:.1f}")

    with network(NODES + 1) as net:
        spaces = [net.space(host) for host in range(NODES + 1)]
        for host in range(1, NODES + 1):
            net.narrow(host, arguments.rate, queue=0.4)
        with fleet(NODES, *WORDS, spaces=spaces) as made:
            for node in made.nodes:
                start(node)
            made.wait_for_first()
            for number in range(arguments.notices):
                advance(made, 2)
                time.sleep(draw.uniform(0.0, 5.0))
                node = draw.choice([node for node in made.nodes if seats_of(made, node)])
                had, seconds = seats_of(made, node), notices[node.name]
                lasted.append(end(node, seconds))
                left = "killed at" if lasted[-1] >= seconds else "had left after"
                print(
                    f"notice {number}: {node.name}, {had} seats, {seconds:.1f} s; {left} "
                    f"{lasted[-1]:.1f} s",
                    flush=True,
                )
                start(node)
            advance(made, 2)
            made.end()
            records = read(made.run)
            same = made.verifies()
            if arguments.keep:
                made.keep(arguments.keep)
    steps = of_kind(records, "iteration")
    again = len(steps) - len({step["iteration"] for step in steps})
    plans = of_kind(records, "plan")
    rules = Counter(made["rule"] for plan in plans for made in plan["rebuilds"].values())
    usual = median(step["seconds"] for step in steps)
    print(f"{arguments.notices} notices, an iteration takes {usual:.1f} s; left after a median of")
    print(f"{median(lasted):.1f} s; states given back by {dict(rules)}; {again} iterations trained")
    print(f"again; verified: {same}")
    if not same or again or not rules.keys() <= EXACT:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

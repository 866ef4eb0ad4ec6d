"""Nodes whose link is cut for some seconds: what becomes of their state.

    python benchmarks/cuts.py [--cuts 100] [--seed 0] [--shortest 1] [--longest 8]

A lead and three nodes, each a host of its own (network namespaces: needs root), five seats. One
after the other a node's link is cut for 1 to 8 s, as drawn; nobody else could take its seats. Told
is how long after its link was whole the next commit came, and by which rules states were given
back: any that is not exact is a failure, and so is a run that does not verify (exit code 1).
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import median

from fleet import Fleet, fleet, prepare
from living import DEADLINE

from checkfree.core.records import of_kind, read
from checkfree.recovery.rungs import EXACT

sys.path.append(os.fspath(Path(__file__).parents[1]))
from tests.process.hosts import network

NODES = 3


def follow(made: Fleet, until: float, ticks: int = 0) -> float:
    """Wait for so many more commits, and until then; returns when the first of them came."""
    goal, first = made.records.ticks + ticks, float("inf")
    end = time.monotonic() + DEADLINE
    while made.records.ticks < goal or time.monotonic() < until:
        before = made.records.ticks
        made.records.read()
        if made.records.ticks > before:
            first = min(first, time.monotonic())
        if made.lead.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"it does not go on:\n{made.said()[-3000:]}")
        time.sleep(0.01)
    return first


def main() -> None:
    prepare()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cuts", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shortest", type=float, default=1.0)
    parser.add_argument("--longest", type=float, default=8.0)
    parser.add_argument("--keep", metavar="FOLDER", help="gets all of the run, to look into")
    arguments = parser.parse_args()
    draw, waits = random.Random(f"{arguments.seed}/cuts"), list[float]()
    with network(NODES + 1) as net:
        spaces = [net.space(host) for host in range(NODES + 1)]
        with fleet(NODES, spaces=spaces) as made:
            for node in made.nodes:
                made.start(node, "--seats=2")
            made.wait_for_first()
            follow(made, 0.0, ticks=5)
            for number in range(arguments.cuts):
                host = draw.randrange(1, NODES + 1)
                seconds = draw.uniform(arguments.shortest, arguments.longest)
                net.link(host, "down")
                follow(made, time.monotonic() + seconds)
                net.link(host, "up")
                whole = time.monotonic()
                waits.append(follow(made, 0.0, ticks=2) - whole)
                follow(made, time.monotonic() + draw.uniform(0.0, 4.0))
                print(f"cut {number}: node-{host - 1} for {seconds:.1f} s, {waits[-1]:.1f} s more")
                sys.stdout.flush()
            made.end()
            plans = of_kind(read(made.run), "plan")
            same = made.verifies()
            if arguments.keep:
                made.keep(arguments.keep)
    rules = Counter(made["rule"] for plan in plans for made in plan["rebuilds"].values())
    print(f"{arguments.cuts} cuts: median {median(waits):.1f} s, longest {max(waits):.1f} s until")
    print(f"the next commit; states given back by {dict(rules)}; verified: {same}")
    if not same or not rules.keys() <= EXACT:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

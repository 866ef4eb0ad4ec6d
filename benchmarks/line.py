"""Snapshots over lines that they fill: is anybody lost, and does anybody wait.

    python benchmarks/line.py [--rounds 4] [--seconds 150] [--rate 50] [--queue 0.4]

A lead and five nodes, each a host of its own behind a line of 50 Mbit/s that lets wait what is due
within 0.4 s (network namespaces: needs root). Runs that push a snapshot every five iterations, or
that often as their line allows, and runs that push none, in turn: the 95th percentile of their
iterations' seconds, and how much of the time the lead's line was full. Exits with 1 if somebody was
lost, or that percentile is above 1.2 of what it is without snapshots.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

from fleet import Fleet, fleet, prepare

from checkfree.core.records import of_kind, read

sys.path.append(os.fspath(Path(__file__).parents[1]))
from tests.process.hosts import Network, network

NODES, EVERY, ALLOWED = 5, 5, 1.2
WARM_UP = 5
"""Iterations that are not looked at: whoever has just joined opens its streams in them."""
WORDS = (
    *("model.width=256", "model.hidden=768", "model.heads=4", "checkpoint.every=1000000"),
    *("microbatches=1", "batch=16"),
)
"""20 MB of weights, 60 MB of states; one microbatch, so that one stage at a time computes: what is
waited for is to be the line, not a core of the one machine on which all of this runs."""


@dataclass
class Found:
    """Of runs of one kind."""

    seconds: list[float] = field(default_factory=list)
    lost: int = 0
    filled: list[float] = field(default_factory=list)
    """Of the lead's line, as a share of what it takes."""


def follow(made: Fleet, net: Network, seconds: float, rate: float, found: Found) -> None:
    """One run, for so long after its first iterations."""
    made.wait_for_first()
    while made.records.ticks < WARM_UP and made.lead.poll() is None:
        made.records.read()
        time.sleep(0.05)
    began, before = time.monotonic(), net.received(0)
    while time.monotonic() - began < seconds and made.lead.poll() is None:
        time.sleep(0.5)
    took, received = time.monotonic() - began, net.received(0) - before
    found.filled.append(received * 8 / (rate * 1e6 * took))
    if made.lead.poll() is not None:
        raise SystemExit(f"the run ended:\n{made.said()[-3000:]}")
    made.end()
    records = read(made.run)
    steps = [step for step in of_kind(records, "iteration") if step["tick"] >= WARM_UP]
    found.seconds += [step["seconds"] for step in steps]
    found.lost += sum(len(record["seats"]) for record in of_kind(records, "failure"))


def late(found: Found) -> float:
    """The 95th percentile."""
    return quantiles(found.seconds, n=20)[-1]


def main() -> None:
    prepare()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--rate", type=float, default=50.0, help="of each line, in Mbit/s")
    parser.add_argument("--queue", type=float, default=0.4, help="seconds")
    arguments = parser.parse_args()
    with_them, without = Found(), Found()
    for number in range(arguments.rounds):
        for every, found in ((EVERY, with_them), (0, without)):
            with network(NODES + 1) as net:
                spaces = [net.space(host) for host in range(NODES + 1)]
                for host in range(NODES + 1):
                    net.narrow(host, arguments.rate, arguments.queue)
                with fleet(NODES, *WORDS, f"resume.every={every}", spaces=spaces) as made:
                    for node in made.nodes:
                        made.start(node, "--seats=1")
                    follow(made, net, arguments.seconds, arguments.rate, found)
            print(
                f"round {number}, resume.every={every}: {len(found.seconds)} iterations so far, "
                f"median {median(found.seconds):.2f} s, 95th percentile {late(found):.2f} s, "
                f"{found.lost} lost, the lead's line full for {found.filled[-1]:.0%} of the time",
                flush=True,
            )
    ratio = late(with_them) / late(without)
    print(f"95th percentile with snapshots over that without: {ratio:.2f}")
    if with_them.lost or ratio > ALLOWED:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

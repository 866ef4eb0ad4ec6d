"""A fleet whose nodes come and go: how much of it still trains.

    python benchmarks/churn.py [--seeds 5] [--seconds 300] [--nodes 7] [--life 60] [--away 12]

Real nodes (``swarm join``) of one machine, under a lead that nobody kills. Each lives and is away
for times that are drawn (exponential, seeded, the same for all ways), six of ten end with a notice:
SIGTERM, and SIGKILL --notice seconds later; the others by SIGKILL at once. They are forks of one
process (see fleet.py), and --start seconds late instead. Three ways, in turn, for each seed:
nodes that take two seats where they must, nodes of one seat, and the first without any churn.
Printed are medians over seeds and their ratios: iterations, seconds for which a stage had nobody,
the longest time between two commits while somebody lived, rollbacks; and whether ``verify`` trains
the same bits (--no-verify doesn't ask). Exits with 1 if a run ended by itself, or differs.
"""

from __future__ import annotations

import argparse
import random
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from fleet import Fleet, Node, fleet, prepare

from checkfree.core.records import of_kind, read

NOTICED = 0.6
"""Of all ends, those that are told beforehand."""
BACK = ("snapshot", "checkpoint")
"""Rules that take everybody back."""


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
class Found:
    """What one run has shown."""

    iterations: int = 0
    vacant: float = 0.0
    longest: float = 0.0
    rollbacks: int = 0
    same: bool = True
    ended: bool = False


class Churn:
    """Nodes that come and go by their spans, and take ``seats`` at most."""

    def __init__(
        self,
        fleet: Fleet,
        seats: int,
        drawn: Sequence[Sequence[Span]],
        seconds: float,
        notice: float,
    ):
        self._fleet, self._seats, self._seconds, self._notice = fleet, seats, seconds, notice
        self._due = {node.name: list(due) for node, due in zip(fleet.nodes, drawn, strict=True)}
        self._killed_at: dict[str, float] = {}
        """When a node will be killed that was told of its end."""

    def run(self) -> Found:
        """For as long as was asked, after the first commit."""
        fleet, found = self._fleet, Found()
        for node in fleet.nodes:
            self._start(node)
        fleet.wait_for_first()
        began, before = time.monotonic(), fleet.records.ticks
        last = began
        while (now := time.monotonic() - began) < self._seconds and fleet.lead.poll() is None:
            for node in fleet.nodes:
                self._attend(node, now)
            ticks = fleet.records.ticks
            fleet.records.read()
            if fleet.records.ticks > ticks or all(node.gone() for node in fleet.nodes):
                last = time.monotonic()
            found.longest = max(found.longest, time.monotonic() - last)
            time.sleep(0.02)
        found.iterations = fleet.records.ticks - before
        found.ended = fleet.lead.poll() is not None
        return found

    def _start(self, node: Node) -> None:
        self._killed_at.pop(node.name, None)
        self._fleet.start(node, f"--seats={self._seats}")

    def _attend(self, node: Node, now: float) -> None:
        """As is drawn."""
        if now >= self._killed_at.get(node.name, float("inf")):
            node.kill()
        if not self._due[node.name]:
            return
        span = self._due[node.name][0]
        if now >= span.end:
            self._due[node.name].pop(0)
            if span.told:
                self._killed_at[node.name] = now + self._notice
                node.send(signal.SIGTERM)
            else:
                node.kill()
        elif now >= span.start and node.gone():
            self._start(node)


def judge(fleet: Fleet, found: Found) -> None:
    """What the records and lines of a run that is over tell."""
    found.vacant = _vacant(fleet.said())
    plans = of_kind(read(fleet.run), "plan")
    rules = [{made["rule"] for made in plan["rebuilds"].values()} for plan in plans]
    found.rollbacks = sum(bool(made & set(BACK)) for made in rules)


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


def measured(arguments: argparse.Namespace, seed: int, seats: int, *, churn: bool) -> Found:
    """One run."""
    times = arguments.seconds, arguments.life, arguments.away, arguments.start
    drawn = [spans(seed, n, *times) if churn else [] for n in range(arguments.nodes)]
    with fleet(arguments.nodes) as made:
        found = Churn(made, seats, drawn, arguments.seconds, arguments.notice).run()
        made.end()
        judge(made, found)
        if arguments.verify and not found.ended:
            found.same = made.verifies()
        if arguments.keep:
            made.keep(arguments.keep)
    return found


def main() -> None:
    prepare()
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
    parser.add_argument("--keep", metavar="FOLDER", help="gets all of each run, to look into")
    parser.add_argument("--no-verify", dest="verify", action="store_false")
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

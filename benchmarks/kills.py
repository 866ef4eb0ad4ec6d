"""A soak: kill one process of a swarm after the other, and see how soon training goes on.

    python benchmarks/kills.py [--kills 100] [--seed 0] [--cold] [--stop] [--calm 0] [--keep 1.0]

Seats are drawn at random, the lead among them (--no-lead leaves it out, --keep another). --stop
hangs them by SIGSTOP, --cold has no spare stand by, --calm trains so many iterations more at the
end. Printed are the medians of the phases from a kill to the next committed iteration and their
shares, how much the processes grew, and whether anything was left when the run was stopped; with
``recovery=replay`` also how much a kill took beside the replay and an iteration. Exits with 1 if
the run ended by itself.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from living import Living, living
from weights import Scale

from checkfree.core.errors import BadInput
from checkfree.core.records import ReplayRecord
from checkfree.runtime.swarm.processes.control import ask

WORDS = [
    *("iterations=1000000", "stages=4", "microbatches=4", "batch=1"),
    *("failures=none", "recovery=checkfree_plus", "validation.every=0", "resume.every=200"),
    *("model.width=32", "model.heads=2", "model.hidden=64", "model.blocks=4", "model.context=32"),
]
LEAD = "lead"
CALM = 3  # iterations between a recovery and the next kill
PHASES = ("noticed", "replaced", "planned", "rebuilt", "committed")


@dataclass(frozen=True)
class Kill:
    """Seconds of each of the PHASES, by turns, of one kill; of the lead, of them all."""

    seat: str
    phases: tuple[float, ...]

    @property
    def seconds(self) -> float:
        return sum(self.phases)


class Soak:
    """A living run, and what was done to it."""

    def __init__(self, swarm: Living, seed: int, signal: str):
        self.swarm, self._draw, self._signal = swarm, random.Random(seed), signal
        self.kills: list[Kill] = []
        self.scale = Scale()

    def kill(self, spared: Sequence[str]) -> None:
        """One but these, and wait until the next iteration is committed."""
        swarm, processes = self.swarm, self.swarm.status()["processes"]
        seats = [s for s, child in processes.items() if child["process"] and s not in spared]
        seat = self._draw.choice(seats)
        try:
            told = ask(swarm.workdir, {"ask": "kill", "seat": seat, "signal": self._signal})
        except BadInput:  # died by another cause this very moment
            return
        swarm.read()
        if seat == LEAD:
            swarm.advance(1)
            self.kills.append(Kill(seat, (time.time() - told["at"],)))
        else:
            self.kills.append(Kill(seat, self._followed(seat, told["at"])))

    def _followed(self, seat: str, at: float) -> tuple[float, ...]:
        """From a kill to the first iteration after its repair."""
        swarm = self.swarm

        def rebuilt() -> float | None:
            swarm.read()
            plans = swarm.records.since(at, "plan")
            return next((when for when, plan in plans if seat in plan.rebuilds), None)

        made = swarm.until(rebuilt, f"{seat} rebuilt")
        swarm.advance(1)
        committed = time.time()
        lost, here = (self._event(what, seat, at) for what in ("lost", "here"))
        planned = swarm.records.since(at, "failure")[0][0]
        moments = (at, lost, here, planned, made, committed)
        return tuple(max(0.0, b - a) for a, b in pairwise(moments))

    def _event(self, what: str, seat: str, at: float) -> float:
        events: list[dict[str, Any]] = self.swarm.status()["events"]
        return float(
            next(
                e["at"]
                for e in events
                if e["event"] == what and e.get("seat") == seat and e["at"] >= at
            )
        )

    def weigh(self) -> None:
        """Every process of the run but the libp2p daemons."""
        status, tick = self.swarm.status(), self.swarm.records.ticks
        for seat, child in status["processes"].items():
            if child["process"]:
                self.scale.put(seat, child["pid"], tick)
        self.scale.put("launcher", status["launcher"], tick)


def report(soak: Soak) -> None:
    """The figures, one a line."""
    seats = [kill for kill in soak.kills if kill.seat != LEAD]
    leads = [kill for kill in soak.kills if kill.seat == LEAD]
    iteration = median(soak.swarm.iterations)
    ticks = soak.swarm.records.ticks
    print(f"{len(soak.kills)} kills, {len(leads)} of the lead; {ticks} iterations")
    print(f"iteration           {1000 * iteration:7.0f} ms")
    whole = sum(kill.seconds for kill in seats)
    for number, phase in enumerate(PHASES if seats else ()):
        times = [kill.phases[number] for kill in seats]
        print_times(phase, times, f", {sum(times) / whole:4.0%} of all")
    for name, kills in (("kill to commit", seats), ("lead: kill to commit", leads)):
        if kills:
            print_times(name, [kill.seconds for kill in kills], f", {len(kills)} of them")
    told = [record for _, record in soak.swarm.records.seen if isinstance(record, ReplayRecord)]
    pairs = [(kill, record) for kill, record in zip(seats, told, strict=False)]
    if pairs and all(kill.seat == record.seat for kill, record in pairs):
        counts = [record.iteration - record.start for _, record in pairs]
        beside = [kill.seconds - r.seconds["replay"] - iteration for kill, r in pairs]
        print_times("replay", [r.seconds["replay"] for _, r in pairs], "")
        print_times("beside both", beside, f", of {median(counts):g} iterations replayed")
    soak.scale.report()


def print_times(name: str, seconds: Sequence[float], more: str) -> None:
    """Median and worst."""
    worst = f"worst {1000 * max(seconds):6.0f} ms"
    print(f"{name:20}{1000 * median(seconds):7.0f} ms, {worst}{more}")


def soaked(soak: Soak, kills: int, calm: int, spared: Sequence[str]) -> None:
    """So many kills, and iterations without any."""
    for _ in range(kills):
        soak.kill(spared)
        soak.swarm.advance(CALM)
        soak.weigh()
    for _ in range(calm // 50):
        soak.swarm.advance(50)
        soak.weigh()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calm", type=int, default=0, help="iterations after the last kill")
    parser.add_argument("--cold", action="store_true", help="no spare stands by")
    parser.add_argument("--stop", action="store_true", help="SIGSTOP instead of SIGKILL")
    parser.add_argument("--no-lead", dest="keep", action="append_const", const=LEAD)
    parser.add_argument("--keep", action="append", metavar="SEAT", help="never this one")
    arguments, words = parser.parse_known_args()
    words = [*WORDS, *(["--spares=0"] if arguments.cold else []), *words]
    with tempfile.TemporaryDirectory(prefix="checkfree-soak-") as name:
        with living(Path(name), words) as swarm:
            soak = Soak(swarm, arguments.seed, "STOP" if arguments.stop else "KILL")
            soaked(soak, arguments.kills, arguments.calm, arguments.keep or ())
        report(soak)


if __name__ == "__main__":
    main()

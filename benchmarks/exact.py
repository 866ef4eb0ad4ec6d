"""A soak of exact recovery: kill processes of a swarm every so often, and compare every bit.

    python benchmarks/exact.py [--minutes 30] [--every 30] [--pair 5] [--seed 0] [key=value …]

With ``recovery=replay(copies=2)`` every --every seconds a process is drawn and gets SIGKILL, the
lead among them; every --pair-th time two of them at the same moment, as of one machine. Printed are
the goodput, what the processes grew, and how many stages were replayed; then the same iterations
are trained in one process with nothing lost, and the sums over each stage after each iteration are
held against each other. Exits with 1 if one differs, or if anything was not replayed.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from living import Living, living
from weights import Scale

from checkfree.core.errors import BadInput
from checkfree.core.goodput import goodput
from checkfree.core.records import of_kind, read
from checkfree.runtime.swarm.processes.control import ask

WORDS = [
    *("iterations=1000000", "stages=4", "microbatches=4", "batch=2", "--spares=2"),
    *("failures=none", "recovery=replay(copies=2)", "validation.every=0", "resume.every=0"),
    *("model.width=64", "model.heads=2", "model.hidden=176", "model.blocks=4", "model.context=64"),
]
SETTLED = 3  # iterations that all have to come through between two strikes


def strike(swarm: Living, draw: random.Random, count: int) -> list[str]:
    """So many processes at once; returns their seats."""
    processes = swarm.status()["processes"]
    seats = sorted(seat for seat, child in processes.items() if child["process"])
    killed = []
    for seat in draw.sample(seats, min(count, len(seats))):
        try:
            ask(swarm.workdir, {"ask": "kill", "seat": seat, "signal": "KILL"})
            killed.append(seat)
        except BadInput:  # died by another cause this very moment
            continue
    return killed


def soaked(swarm: Living, draw: random.Random, given: argparse.Namespace, scale: Scale) -> int:
    """Until the minutes are over. Returns how many were killed."""
    ends, killed, turn = time.monotonic() + 60 * given.minutes, 0, 0
    while time.monotonic() < ends:
        turn += 1
        killed += len(strike(swarm, draw, 2 if turn % given.pair == 0 else 1))
        swarm.advance(SETTLED)
        due = min(ends, ends - 60 * given.minutes + turn * given.every)
        while time.monotonic() < due:
            swarm.advance(1)
        status = swarm.status()
        for seat, child in status["processes"].items():
            if child["process"]:
                scale.put(seat, child["pid"], swarm.records.ticks)
        scale.put("launcher", status["launcher"], swarm.records.ticks)
    return killed


def undisturbed(folder: Path, words: Sequence[str], iterations: int) -> list[dict[str, Any]]:
    """The records of as many iterations in one process that loses nothing."""
    kept = [word for word in words if not word.startswith(("iterations=", "--"))]
    data = ["data.name=text", f"data.path={folder}/text.txt", f"out={folder}/plain"]
    command = [sys.executable, "-m", "checkfree", "train", str(folder / "empty.yaml"), "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, *kept, *data, f"iterations={iterations}"], env=environment, check=True
    )
    return read(folder / "plain")


def digests(records: Sequence[dict[str, Any]]) -> dict[int, Any]:
    """By iteration, of all stages. Of one whose lead died before it was written down nobody tells
    them; those after it do."""
    steps = of_kind(records, "iteration")
    return {r["iteration"]: r["digests"] for r in steps if r.get("digests")}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=30.0, help="seconds between two strikes")
    parser.add_argument("--pair", type=int, default=5, help="each so many strikes hit two")
    parser.add_argument("--seed", type=int, default=0)
    given, more = parser.parse_known_args()
    words, scale = [*WORDS, *more], Scale()
    with tempfile.TemporaryDirectory(prefix="checkfree-exact-") as name:
        folder = Path(name)
        with living(folder, words) as swarm:
            killed = soaked(swarm, random.Random(given.seed), given, scale)
        records = read(folder / "run")
        made = Counter(
            how["rule"] for r in of_kind(records, "recovery") for how in r["rebuilds"].values()
        )
        found, share = digests(records), goodput(records)
        print(f"{killed} processes killed in {given.minutes:g} minutes; rebuilt: {dict(made)}")
        print(f"{len(found)} iterations; goodput {share or 0.0:.1%}")
        scale.report()
        expected = digests(undisturbed(folder, words, max(found, default=-1) + 1))
        wrong = sorted(i for i in found if found[i] != expected.get(i))
        told = f"{len(wrong)} DIFFER, first {wrong[0]}" if wrong else "all the same"
        print(f"sums over {len(found)} iterations of {len(expected[0])} stages: {told}")
        raise SystemExit(1 if wrong or made.keys() - {"replay", "back", "handover"} else 0)


if __name__ == "__main__":
    main()

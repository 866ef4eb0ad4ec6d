"""A soak of exact recovery: kill processes of a swarm every so often, and compare every bit.

    python benchmarks/exact.py [--minutes 30] [--every 30] [--node 5] [--seed 0] [key=value …]
    python benchmarks/exact.py --runs 20 [--seed 0] [key=value …]

Of a swarm on several nodes with ``recovery=replay(copies=2)`` every --every seconds a process is
drawn and gets SIGKILL, the lead among them; every --node-th time a node with all its seats. Told
are the goodput, what the processes grew, and how many stages were replayed; then the same
iterations are trained in one process with nothing lost, and the sums over each stage after each
iteration are held against each other. Exits with 1 if one differs, or if anything was not replayed.

With --runs so many short runs, in which stage 0, two adjacent stages, a node with all its seats,
and the lead with a stage are killed in turn, one of these a run and three times in it. Each waits
until its stages can be replayed, so that nothing but exact recovery is an answer.
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from living import Living, living
from weights import Scale

from checkfree.core.errors import BadInput
from checkfree.core.goodput import goodput
from checkfree.core.records import of_kind, read
from checkfree.runtime.swarm.processes.control import ask

STAGES = 4
EXACT = {"replay", "back", "handover"}
WORDS = [
    *("iterations=1000000", f"stages={STAGES}", "microbatches=4", "batch=2"),
    *("failures=none", "recovery=replay(copies=2)", "validation.every=0", "resume.every=0"),
    *("model.width=64", "model.heads=2", "model.hidden=176", "model.blocks=4", "model.context=64"),
]
SETTLED = 3  # iterations that all have to come through between two strikes


def strike(swarm: Living, draw: random.Random, *, node: bool) -> int:
    """A process that is drawn, or a node with all that it has; how many were killed."""
    there = swarm.status()["processes"]
    names = sorted(name for name, child in there.items() if child["process"])
    nodes = [f"worker-{number}" for number in range(NODES)]
    try:
        victim = draw.choice(nodes if node else names)
        ask(swarm.workdir, {"ask": "kill", "seat": victim, "signal": "KILL"})
    except BadInput:  # died by another cause this very moment
        return 0
    return 1


def soaked(swarm: Living, draw: random.Random, given: argparse.Namespace, scale: Scale) -> int:
    """Until the minutes are over. Returns how many were killed."""
    ends, killed, turn = time.monotonic() + 60 * given.minutes, 0, 0
    while time.monotonic() < ends:
        turn += 1
        killed += strike(swarm, draw, node=turn % given.node == 0)
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


KINDS = ("stage 0", "adjacent stages", "a node", "lead and a stage")
NODES = 3  # of which one is lost with its two seats, or one


def short_run(folder: Path, kind: str, draw: random.Random, more: Sequence[str]) -> bool:
    """One run with three strikes of that kind; whether all its bits are those of a run that lost
    nothing."""
    words = [*WORDS, f"--nodes={NODES}" if kind == "a node" else "--spares=2", *more]
    folder.mkdir()
    with living(folder, words) as swarm:
        for _ in range(3):
            swarm.until(lambda: safe(swarm), "every stage can be replayed")
            for victim in victims(kind, draw, swarm):
                ask(swarm.workdir, {"ask": "kill", "seat": victim, "signal": "KILL"})
            swarm.advance(SETTLED)
    records = read(folder / "run")
    made = rebuilt(records)
    found = digests(records)
    expected = digests(undisturbed(folder, words, max(found) + 1))
    same = not differing(found, expected) and made.keys() <= EXACT and made["replay"] >= 3
    print(f"{kind}: {len(found)} iterations, rebuilt: {dict(made)}, {'same' if same else 'WRONG'}")
    return same


def safe(swarm: Living) -> bool:
    """Each stage has a copy that counts, and no one node's loss is too much."""
    swarm.read()
    told = swarm.status()
    versions = [how["version"] for how in (told.get("replayable") or {}).values()]
    return len(versions) == STAGES + 1 and min(versions) > 0 and told["fatal"] == []


def victims(kind: str, draw: random.Random, swarm: Living) -> list[str]:
    """By the names that ``swarm kill`` knows."""
    stage = draw.randrange(STAGES)
    if kind == "a node":
        there = [node["host"] for node in swarm.status()["nodes"] if node["seats"]]
        return [draw.choice(there).replace("node", "worker")]
    return {
        "stage 0": ["0.0"],
        "adjacent stages": [f"{stage}.0", f"{stage + 1}.0"],
        "lead and a stage": ["lead", f"{stage}.0"],
    }[kind]


def rebuilt(records: Sequence[dict[str, Any]]) -> Counter[str]:
    """How many seats by which rule."""
    recoveries = of_kind(records, "recovery")
    return Counter(how["rule"] for made in recoveries for how in made["rebuilds"].values())


def digests(records: Sequence[dict[str, Any]]) -> dict[int, dict[str, str]]:
    """By iteration and stage. Of one whose lead died before it was written down nobody tells them,
    nor of a seat that died as it stepped; those after it do."""
    steps = of_kind(records, "iteration")
    return {r["iteration"]: r["digests"] for r in steps if r.get("digests")}


def differing(found: Mapping[int, dict[str, str]], expected: Mapping[int, Any]) -> list[int]:
    """Iterations of which a sum is not what it is to be."""
    return [i for i in sorted(found) if not found[i].items() <= expected.get(i, {}).items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=30.0, help="seconds between two strikes")
    parser.add_argument("--node", type=int, default=5, help="each so many strikes hit a node")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=0, help="short runs, instead of a soak")
    given, more = parser.parse_known_args()
    words, scale = [*WORDS, f"--nodes={NODES}", *more], Scale()
    if given.runs:
        draw = random.Random(given.seed)
        with tempfile.TemporaryDirectory(prefix="checkfree-exact-") as name:
            kinds = [KINDS[run % len(KINDS)] for run in range(given.runs)]
            ends = [
                short_run(Path(name) / str(run), kind, draw, more) for run, kind in enumerate(kinds)
            ]
        print(f"{sum(ends)} of {len(ends)} runs: the bits of one that lost nothing")
        raise SystemExit(0 if all(ends) else 1)
    with tempfile.TemporaryDirectory(prefix="checkfree-exact-") as name:
        folder = Path(name)
        with living(folder, words) as swarm:
            killed = soaked(swarm, random.Random(given.seed), given, scale)
        records = read(folder / "run")
        made = rebuilt(records)
        found, share = digests(records), goodput(records)
        print(f"{killed} processes killed in {given.minutes:g} minutes; rebuilt: {dict(made)}")
        print(f"{len(found)} iterations; goodput {share or 0.0:.1%}")
        scale.report()
        expected = digests(undisturbed(folder, words, max(found, default=-1) + 1))
        wrong = differing(found, expected)
        told = f"{len(wrong)} DIFFER, first {wrong[0]}" if wrong else "all the same"
        print(f"sums over {len(found)} iterations of {len(expected[0])} stages: {told}")
        raise SystemExit(1 if wrong or made.keys() - EXACT else 0)


if __name__ == "__main__":
    main()

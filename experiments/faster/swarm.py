"""Does a swarm of real processes gain by each lever what the simulator says?

    python experiments/faster/swarm.py experiments/faster/results [--only 'deep;wide'] [--simulate]

Slow lines are emulated (``swarm up --link``); ops take as long as on a device beside the host
(``device.py``). The same lines and a profile of the same ops are described to ``checkfree
simulate``. Writes ``swarm.json``, and prints the table of the page: seconds of an iteration, and
the share of what it takes as it is, of the swarm and simulated. ``--simulate``: what was measured
is read from there, and only simulated again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

import checkfree
from checkfree.core.ops import Address
from checkfree.core.records import of_kind, read
from checkfree.simulator.fleet import Link
from checkfree.simulator.surveyed import SurveyedFleet

HERE = Path(__file__).parent
AS_IT_IS = "as it is"
WARM_UP = 5
"""Iterations that are not looked at: streams are opened, and learn how much their lines take."""
WORDS = (
    *("model.family=device:family", "model.width=64", "model.heads=2", "model.hidden=64"),
    *("model.context=64", "batch=4", "optimizer.name=sgd", "failures=none", "recovery=none"),
    *("validation.every=0", "resume.every=0", "data.name=text"),
)
"""64 KiB an activation."""


@dataclass(frozen=True)
class Lines:
    """One fleet: its shape, the line of all pairs of seats, and those that are others; for how many
    iterations it is looked at, which are more where ways have to be measured and changed first."""

    words: Sequence[str]
    iterations: int
    stages: int
    replicas: int
    usual: Link
    others: Mapping[tuple[Address, Address], Link]
    levers: Mapping[str, Sequence[str]]

    @property
    def seats(self) -> list[Address]:
        return [Address(s, r) for s in range(self.stages + 1) for r in range(self.replicas)]

    def between(self, one: Address, other: Address) -> Link:
        return self.others.get((one, other)) or self.others.get((other, one)) or self.usual

    def emulated(self) -> str:
        """As ``--link`` reads it. The lead sits beside the first seat of stage 0."""
        pairs = [(str(a), str(b), self.between(a, b)) for a, b in combinations(self.seats, 2)]
        first = self.seats[0]
        pairs += [("lead", str(b), self.between(first, b)) for b in self.seats if b != first]
        return "".join(
            f"{a} {b} latency={1e3 * link.latency:g}ms,bandwidth={link.bandwidth / 1e3:g}kB\n"
            for a, b, link in pairs
        )

    def described(self) -> SurveyedFleet:
        """As ``fleet.links`` has it: a machine for each seat."""
        ways = [(a, b) for a in self.seats for b in self.seats if a != b]
        links = {(str(a), str(b)): self.between(a, b) for a, b in ways}
        return SurveyedFleet({str(seat): (seat,) for seat in self.seats}, links)


DEEP = Lines(
    ("microbatches=8", "model.blocks=4"),
    12,
    4,
    1,
    Link(0.02, 1.6e6),
    {(Address(2), Address(3)): Link(0.06, 0.5e6)},
    {
        AS_IT_IS: (),
        "split backward": ("schedule=zb_h1",),
        "more in flight": ("schedule=zb_h2",),
        "int8 everywhere": ("wire.activations=int8", "wire.gradients=int8"),
        "formats by link": ("wire=auto",),
        "all": ("schedule=zb_h2", "wire=auto"),
    },
)
"""Four body stages in a row, and a slow line in the middle."""

WIDE = Lines(
    ("microbatches=8", "model.blocks=2", "replicas=2"),
    32,
    2,
    2,
    Link(0.02, 1.6e6),
    {
        (Address(1, 0), Address(2, 0)): Link(0.06, 0.25e6),
        (Address(0, 1), Address(1, 1)): Link(0.06, 0.25e6),
    },
    {
        AS_IT_IS: (),
        "routes by flow": ("routes=flow",),
        "formats by link": ("wire=auto",),
        "all": ("routes=flow", "wire=auto", "schedule=zb_h1"),
    },
)
"""Two body stages twice, where two lines between replicas are slow, on which routes in order go."""

FLEETS = {"deep": DEEP, "wide": WIDE}


def command(folder: Path, *words: str) -> str:
    """What it prints. Raises SystemExit."""
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    made = subprocess.run(
        [sys.executable, "-m", "checkfree", *words],
        cwd=folder,
        env={**environment, "HIVEMIND_LOGLEVEL": "ERROR"},
        capture_output=True,
        text=True,
    )
    if made.returncode:
        raise SystemExit(f"{' '.join(words)}:\n{made.stdout[-2000:]}{made.stderr[-2000:]}")
    return made.stdout


def swarm_seconds(folder: Path, words: Sequence[str]) -> float:
    """Of an iteration: the median of those after the last change of ways."""
    command(folder, "swarm", "up", *words, "out=run", "--link=lines", "--spares=0", "--quiet")
    records = read(folder / "run")
    begins = WARM_UP + max(plan["iteration"] for plan in of_kind(records, "plan"))
    steps = [step for step in of_kind(records, "iteration") if step["iteration"] >= begins]
    subprocess.run(["rm", "-r", str(folder / "run")], check=True)
    return median(step["seconds"] for step in steps)


def simulated_seconds(config: Path, words: Sequence[str]) -> float:
    """Of an iteration, by what the simulator is told."""
    rows = checkfree.simulate(config, strategies=["none"], words=(*words, "iterations=3"))
    return rows[0].seconds_per_iteration


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--only", metavar="FLEETS")
    parser.add_argument("--simulate", action="store_true")
    given = parser.parse_args()
    file = given.results / "swarm.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    given.results.mkdir(exist_ok=True)
    for name in given.only.split(";") if given.only else FLEETS:
        with tempfile.TemporaryDirectory(prefix="checkfree-faster-") as made:
            here = found[name] if given.simulate else {"levers": {}}
            measure(name, Path(made), here, given.simulate)
            found[name] = here
        file.write_text(json.dumps(found, indent=1) + "\n")


def measure(name: str, folder: Path, found: dict[str, Any], again: bool) -> None:
    """One fleet: its profile, and each lever. ``again``: by the profile that is there."""
    fleet = FLEETS[name]
    (folder / "text.txt").write_text("the lost stage of a neighbour is a mean\n" * 4000)
    (folder / "small.yaml").write_text("{}\n")
    (folder / "lines").write_text(fleet.emulated())
    (folder / "links.json").write_text(json.dumps(fleet.described().to_json("")))
    shape = (*WORDS, *fleet.words, f"stages={fleet.stages}", f"data.path={folder}/text.txt")
    profile = folder / "profile.json"
    if not again:
        few = ("small.yaml", *shape, "microbatches=4", "--repeats=3", "--quiet")
        command(folder, "profile", *few, "--to=profile.json")
        found["profile"] = json.loads(profile.read_text())
    profile.write_text(json.dumps(found["profile"]))
    shape += (f"fleet.links={folder}/links.json", f"fleet.profile={profile}")
    for lever, more in fleet.levers.items():
        words = (*shape, *more, f"iterations={fleet.iterations}")
        here = found["levers"].setdefault(lever, {})
        if not again:
            here["swarm"] = round(swarm_seconds(folder, ("small.yaml", *words)), 2)
        here["simulated"] = round(simulated_seconds(folder / "small.yaml", words), 2)
        print(row(name, lever, found["levers"]), flush=True)


def row(name: str, lever: str, found: Mapping[str, Mapping[str, float]]) -> str:
    """Seconds, shares, and by how much these differ."""
    here, before = found[lever], found[AS_IT_IS]
    real, said = (here[who] / before[who] for who in ("swarm", "simulated"))
    seconds = f"{here['swarm']:.2f} ({real:.2f}) | {here['simulated']:.2f} ({said:.2f})"
    return f"| {name} | {lever} | {seconds} | {real / said - 1:+.0%} |"


if __name__ == "__main__":
    main()

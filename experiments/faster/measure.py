"""What does each lever take off an iteration of paper/500m, alone and with the others?

    python experiments/faster/measure.py experiments/faster/results [--only 'as it is;all']

Simulated, from the very plans that train: seconds of an iteration in which nothing fails. Writes
``levers.json``, and prints the table of the page; with ``--only``, changes those rows of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import checkfree

FLEETS: Mapping[str, Sequence[str]] = {
    "paper": (),
    "home": ("fleet.name=home",),
    "datacenter": ("fleet.name=datacenter",),
}
PLACED, FLOW = "fleet.placement=searched", "routes=flow"
SPLIT, CHUNKS, NARROW = "schedule=zb_h1", "schedule=zbv", "wire=auto"
LEVERS: Mapping[str, Sequence[str]] = {
    "as it is": (),
    "machines searched": (PLACED,),
    "routes by flow": (FLOW,),
    "split backward, zb_h1": (SPLIT,),
    "formats by link": (NARROW,),
    "all in fp32": (PLACED, FLOW, SPLIT),
    "all": (PLACED, FLOW, SPLIT, NARROW),
    "two chunks a stage, zbv": (CHUNKS,),
    "all, with zbv": (PLACED, FLOW, CHUNKS, NARROW),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--only", metavar="LEVERS", help="the first has to be among them")
    given = parser.parse_args()
    wanted = given.only.split(";") if given.only else LEVERS
    known = given.results / "levers.json"
    found: dict[str, dict[str, float]] = (
        json.loads(known.read_text()) if given.only and known.exists() else {}
    )
    for lever, words in LEVERS.items():
        if lever not in wanted:
            continue
        found[lever] = {
            fleet: checkfree.simulate(
                "paper/500m", strategies=["none"], words=("iterations=3", *where, *words)
            )[0].seconds_per_iteration
            for fleet, where in FLEETS.items()
        }
        print(row(lever, found[lever], found["as it is"]), flush=True)
    given.results.mkdir(exist_ok=True)
    known.write_text(json.dumps(found, indent=1) + "\n")


def row(lever: str, seconds: Mapping[str, float], before: Mapping[str, float]) -> str:
    told = (f"{s:.1f} ({s / before[fleet]:.2f})" for fleet, s in seconds.items())
    return f"| {lever} | {' | '.join(told)} |"


if __name__ == "__main__":
    main()

"""One table out of many branchings: train each trunk with each seed, kill stages, apply the rules.

    python experiments/branches.py experiments/rungs/study.yaml runs/rungs [--seeds 5] [--workers 2]

reads what to do from the study, trains below ``runs/rungs``, and keeps a CSV per trunk, seed and
moment in ``results/`` beside the study; what is there is not trained again. ``results/table.csv``
has means over the seeds with their 95 % intervals.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from omegaconf import OmegaConf

STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""95 %, two-sided, by number of seeds."""


@dataclass(frozen=True)
class Trunk:
    """One run, to be branched at each of ``at``."""

    name: str
    seed: int
    words: tuple[str, ...]
    at: tuple[int, ...]
    stages: str
    rules: tuple[str, ...]

    @property
    def label(self) -> str:
        return f"{self.name}-seed-{self.seed}"


def trunks(study: dict[str, Any], seeds: int) -> Iterator[Trunk]:
    """Seed by seed, so that what is there when time runs out is whole."""
    for seed in range(seeds):
        for name, own in study["trunks"].items():
            given = {**study, **(own or {})}
            words = tuple(str(given.get("words", "")).split())
            at, rules = tuple(given["at"]), tuple(given["rules"])
            yield Trunk(name, seed, words, at, str(given["stages"]), rules)


def checkfree(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "checkfree", *words], check=True)


def branch(trunk: Trunk, study: dict[str, Any], folder: Path, results: Path) -> None:
    """Make the CSVs of a trunk that are not there, and drop the trunk itself."""
    run, config = folder / trunk.label, results.parent / "config.yaml"
    missing = [at for at in trunk.at if not kept(results, trunk, at).exists()]
    if not missing:
        return
    if not (run / "weights").exists():
        shutil.rmtree(run, ignore_errors=True)
        words = (f"seed={trunk.seed}", f"out={run}", *trunk.words)
        checkfree("train", str(config), *words, "--quiet")
    for at in missing:
        out = folder / f"{trunk.label}-at-{at}"
        options = ("--rules", ",".join(trunk.rules), "--gaps", str(study["gaps"]))
        where = ("--at", str(at), "--stages", trunk.stages, "--out", str(out))
        checkfree("branch", str(run), *where, *options, "--quiet")
        shutil.copy(out / "branches.csv", kept(results, trunk, at))
        shutil.rmtree(out)
    shutil.rmtree(run)


def kept(results: Path, trunk: Trunk, at: int) -> Path:
    return results / f"{trunk.label}-at-{at}.csv"


def table(found: list[Trunk], results: Path) -> None:
    """Means over seeds, with 95 % intervals where there are two or more."""
    gaps: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)
    for trunk in found:
        for at in trunk.at:
            if not kept(results, trunk, at).exists():
                continue
            with open(kept(results, trunk, at), newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    key = (trunk.name, str(at), row["stage"], row["rule"], row["steps"])
                    gaps[key] += [float(row["gap"])] if row["gap"] else []
    with open(results / "table.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["trunk", "at", "stage", "rule", "steps", "seeds", "gap", "half_interval"])
        for key, values in gaps.items():
            half = STUDENT.get(len(values))
            wide = f"{half * stdev(values) / sqrt(len(values)):.4f}" if half else ""
            middle = f"{mean(values):.4f}" if values else "refused"
            writer.writerow((*key, len(values), middle, wide))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    study: Any = OmegaConf.to_container(OmegaConf.load(given.study))
    results = given.study.parent / "results"
    results.mkdir(exist_ok=True)
    found = list(trunks(study, given.seeds))
    with ThreadPoolExecutor(given.workers) as pool:
        list(pool.map(lambda trunk: branch(trunk, study, given.runs, results), found))
    table(found, results)


if __name__ == "__main__":
    main()

"""One table out of many branchings: train each trunk with each seed, kill stages, apply the rules.

    python experiments/branches.py experiments/rungs/study.yaml runs/rungs [--seeds 5] [--workers 2]

reads what to do from the study, trains below ``runs/rungs``, and keeps a CSV per trunk, seed and
moment in ``results/`` beside the study; what is there is not trained again, and a rule that the
study is given later comes beside the others. ``results/table.csv`` has means over the seeds with
their 95 % intervals, and the same of the difference to ``zero``.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
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
    """Train what the CSVs of a trunk lack, and drop the trunk itself."""
    run, config = folder / trunk.label, results.parent / "config.yaml"
    missing = {at: rules for at in trunk.at if (rules := lacking(trunk, kept(results, trunk, at)))}
    if not missing:
        return
    if not (run / "weights").exists():
        shutil.rmtree(run, ignore_errors=True)
        words = (f"seed={trunk.seed}", f"out={run}", *trunk.words)
        checkfree("train", str(config), *words, "--quiet")
    for at, rules in missing.items():
        out = folder / f"{trunk.label}-at-{at}"
        options = ("--rules", ",".join(rules), "--gaps", str(study["gaps"]))
        where = ("--at", str(at), "--stages", trunk.stages, "--out", str(out))
        checkfree("branch", str(run), *where, *options, "--quiet")
        add(trunk, out / "branches.csv", kept(results, trunk, at))
        shutil.rmtree(out)
    shutil.rmtree(run)


def lacking(trunk: Trunk, table: Path) -> list[str]:
    """The rules of a study that a moment's CSV has not got."""
    there = {row["rule"] for row in rows(table)} if table.exists() else set()
    return [rule for rule in trunk.rules if rule not in there]


def add(trunk: Trunk, made: Path, table: Path) -> None:
    """Rows of new rules to those that were there, in the study's order. All of them are gaps to
    one run: exits if that gives other numbers here than where it was trained before."""
    found = [*(rows(table) if table.exists() else ()), *rows(made)]
    own: dict[tuple[str, str], set[str]] = {}
    for row in found:
        own.setdefault((row["stage"], row["steps"]), set()).add(row["uninterrupted"])
    if any(len(losses) > 1 for losses in own.values()):
        sys.exit(
            f"{table}: its run gives other numbers on this machine; remove it to train it anew"
        )
    stages, rules = trunk.stages.split(","), list(dict.fromkeys(row["rule"] for row in found))
    rules.sort(key=lambda rule: (*trunk.rules, rule).index(rule))  # one it has no more comes last
    found.sort(key=lambda row: (stages.index(row["stage"]), rules.index(row["rule"])))
    with open(table, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)


def rows(table: Path) -> list[dict[str, str]]:
    """Of a CSV."""
    with open(table, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def kept(results: Path, trunk: Trunk, at: int) -> Path:
    return results / f"{trunk.label}-at-{at}.csv"


Place = tuple[str, str, str, str]
"""Trunk, iteration, stage and steps."""


def gaps_of(found: list[Trunk], results: Path) -> dict[Place, dict[str, dict[int, float]]]:
    """What was measured at each place, by rule and seed; a rule that refused is there, empty."""
    gaps: dict[Place, dict[str, dict[int, float]]] = {}
    for trunk in found:
        for at in trunk.at:
            if not kept(results, trunk, at).exists():
                continue
            for row in rows(kept(results, trunk, at)):
                place = trunk.name, str(at), row["stage"], row["steps"]
                measured = gaps.setdefault(place, {}).setdefault(row["rule"], {})
                if row["gap"]:
                    measured[trunk.seed] = float(row["gap"])
    return gaps


def table(found: list[Trunk], results: Path) -> None:
    """Mean gaps, and by how much they differ from those of ``zero``, seed by seed."""
    head = "trunk,at,stage,rule,steps,seeds,gap,half_interval,minus_zero,minus_zero_half_interval"
    with open(results / "table.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head.split(","))
        for (name, at, stage, steps), rules in gaps_of(found, results).items():
            zero = rules.get("zero", {})
            for rule, gaps in rules.items():
                over = [gap - zero[seed] for seed, gap in gaps.items() if seed in zero]
                told = (*interval(list(gaps.values())), *interval(over if rule != "zero" else []))
                refused = ("refused", *told[1:]) if not gaps else told
                writer.writerow((name, at, stage, rule, steps, len(gaps), *refused))


def interval(values: list[float]) -> tuple[str, str]:
    """Their mean, and half of its 95 % interval where there are two or more."""
    half = STUDENT.get(len(values))
    wide = f"{half * stdev(values) / sqrt(len(values)):.4f}" if half else ""
    return f"{mean(values):.4f}" if values else "", wide


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

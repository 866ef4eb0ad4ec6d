"""``checkfree plan``: what is searched, what is ranked, and what is refused in a line."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checkfree.cli import main
from checkfree.core.errors import BadInput
from checkfree.report.study.csvs import SUMMARY
from checkfree.report.study.write import write_report
from checkfree.study.costs import LossCosts, read_costs, without_failures
from checkfree.study.fleet_plan import (
    FleetPlan,
    FleetSearch,
    PlanChoice,
    best_interval,
    plan_fleet,
    ranked,
)
from tests.studies import full

TREE: dict[str, Any] = {
    "iterations": 60,
    "stages": 4,
    "fleet": {"name": "home", "store": 5e3, "flops": 1e5, "detection": 30.0, "sizes": "own"},
    "recovery": {"wave_lag": 2},
    "failures": {"stages": "all", "first": 0},
    "validation": {"every": 0},
    "model": {"width": 16, "heads": 2, "hidden": 32, "blocks": 4, "context": 16},
}
WORDS = [
    "stages=4",
    *(f"fleet.{key}={value}" for key, value in TREE["fleet"].items() if key != "name"),
    *(f"model.{key}={value}" for key, value in TREE["model"].items()),
    "recovery=replay(wave_lag=2)",
    "iterations=60",
]
EXACT = ("replay", "checkpoint", "redundant")


# --- the pure parts ------------------------------------------------------------------------------


@pytest.mark.parametrize("best", [1, 3, 7, 40, 100])
def test_an_interval_is_found_near_where_the_closed_form_says(best: int) -> None:
    tried: list[int] = []

    def tell(interval: int) -> float:
        tried.append(interval)
        return abs(math.log(interval / best))

    found = best_interval(tell, start=best * 1.7, least=1, most=100)
    assert abs(math.log(found / best)) <= math.log(1.5)
    assert len(tried) == len(set(tried)) <= 9 and max(tried) <= 100


def test_no_interval_is_tried_that_may_not_be() -> None:
    assert best_interval(float, start=math.inf, least=5, most=9) == 5
    assert best_interval(lambda n: -n, start=math.inf, least=5, most=9) == 9
    assert best_interval(lambda n: -n, start=0.01, least=5, most=5) == 5


def test_strategies_are_ranked_by_nats_that_are_more_than_noise_and_by_hours() -> None:
    exact = PlanChoice("replay", True, 0, hours=5.0)
    noisy = PlanChoice("auto", False, 0, hours=4.0, gap=0.009)
    better = PlanChoice("shadow", False, 0, hours=6.0, gap=-0.5)
    worse = PlanChoice("checkfree", False, 0, hours=1.0, gap=0.2)
    out = PlanChoice("redundant", True, 0, hours=0.5, out="needs more")
    order = ranked([out, worse, exact, better, noisy], noise=0.01)
    assert order == (noisy, exact, better, worse, out)


def test_a_strategy_is_the_same_whatever_it_was_to_lose() -> None:
    assert without_failures("checkfree") == "checkfree"
    assert without_failures("checkfree(failures.stages=[2,3])") == "checkfree"
    assert without_failures("auto(swap=true,failures.first=9)") == "auto(swap=true)"


# --- what a study says ---------------------------------------------------------------------------


def summary(folder: Path, *rows: dict[str, object]) -> Path:
    folder.mkdir(exist_ok=True)
    with open(folder / "summary.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, SUMMARY, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return folder


def row(label: str, gap: object, lost: object, seeds: int = 1) -> dict[str, object]:
    told = {"label": label, "gap": gap, "gap_seeds": seeds, "failures_per_run": lost}
    return {**told, "compared_to_iteration": 100, "reading_noise": 0.01}


def test_nats_are_told_for_as_many_losses_an_iteration(tmp_path: Path) -> None:
    """0.02 nats over 100 iterations with 4 losses, thrice, and 0.05 with 6: 0.11 with 18 losses."""
    costs = read_costs(
        summary(
            tmp_path,
            row("no_failure", "", 0),
            row("auto(failures.probability=0.1)", 0.02, 4, seeds=3),
            row("auto", 0.05, 6),
            row("fit", "", 6),
        )
    )
    assert costs.noise == 0.01 and costs.nats.keys() == {"auto"}
    assert costs.gap("auto", 0.18) == pytest.approx(0.11)
    assert costs.gap("fit", 0.18) is None


def test_a_report_of_a_comparison_is_read(tmp_path: Path) -> None:
    write_report(full(), tmp_path)
    costs = read_costs(tmp_path)
    assert "checkfree" in costs.nats and all(map(math.isfinite, costs.nats.values()))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: folder, "holds no summary.csv"),
        (lambda folder: summary(folder), "no strategy of it has both losses and a gap"),
        (lambda folder: summary(folder, row("auto", "much", 1)), "gap of auto is 'much'"),
        (lambda folder: _text(folder, "label,rate\n"), "it has no column seeds"),
        (lambda folder: _text(folder, ""), "it has no column label"),
        (lambda folder: _text(folder, "\xff"), "no table of a comparison"),
    ],
)
def test_a_folder_of_something_else_is_refused(
    make: Callable[[Path], Path], says: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=says) as refused:
        read_costs(make(tmp_path))
    assert "--costs" in str(refused.value) and "\n" not in str(refused.value)


def _text(folder: Path, text: str) -> Path:
    (folder / "summary.csv").write_bytes(text.encode("latin-1"))
    return folder


# --- a plan --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def few() -> FleetPlan:
    """Where losses are few; a node costs 2.0 an hour."""
    return plan_fleet({**TREE, "fleet": {**TREE["fleet"], "price": 2.0}}, rate=0.5)


@pytest.fixture(scope="module")
def many() -> FleetPlan:
    """Where losses are many."""
    return plan_fleet(TREE, rate=60.0)


def test_it_is_searched_by_simulated_runs_where_they_meet_enough_losses(many: FleetPlan) -> None:
    assert many.searched and many.stages == (0, 1, 2, 3, 4) and many.lag == 2
    assert many.waves is not None and many.checkpoints is not None
    mine = [choice for choice in many.tried if choice.label.startswith("checkpoint")]
    best = min(mine, key=lambda choice: choice.hours)
    assert best.label == f"checkpoint(interval={many.checkpoints.taken})" and len(mine) >= 3
    assert best in many.choices and best.hours > many.undisturbed.hours
    assert best.met > 0 and best.runs == 3
    assert many.fastest is not None and many.fastest.exact and many.cheapest is None
    assert many.fastest.hours == min(c.hours for c in many.choices if c.exact and not c.out)


def test_few_losses_leave_it_to_closed_forms(few: FleetPlan) -> None:
    assert not few.searched
    assert few.waves is not None and few.waves.taken == round(few.waves.forms["closed form"])
    assert few.checkpoints is not None
    assert few.checkpoints.taken == round(few.checkpoints.forms["Daly"])
    assert few.cheapest is few.fastest is not None
    assert few.cheapest.cost == pytest.approx(2.0 * 5 * few.cheapest.hours)
    assert {choice.out for choice in few.choices if not choice.exact} == {"not ranked"}
    hours = {choice.label: choice.hours for choice in few.choices}
    assert hours["checkfree"] > hours["fit"] > few.undisturbed.hours, "a lost end ends it"


def test_what_needs_more_memory_is_out(few: FleetPlan) -> None:
    needed = {choice.label.partition("(")[0]: choice.memory for choice in few.choices}
    assert needed["replay"] > needed["checkpoint"]
    found = plan_fleet(TREE, rate=0.5, memory=(needed["replay"] + needed["checkpoint"]) // 2)
    out = {choice.label.partition("(")[0]: choice.out for choice in found.choices}
    assert found.waves is None and "of memory a node" in out["replay"]
    assert not out["checkpoint"] and found.fastest is not None


def test_memory_bounds_the_interval_of_waves(many: FleetPlan) -> None:
    """The least is tried in any case; there is room for no more."""
    found = FleetSearch(TREE, 60.0, None, 3, (), bool)
    tight = found.tell("replay(wave_every=3,copies=1)").memory
    bound = FleetSearch(TREE, 60.0, tight, 3, (), bool)
    interval, choices = bound.waves()
    assert interval is not None and interval.taken == 3
    assert [choice.label for choice in choices if not choice.out] == [
        "replay(wave_every=3,copies=1)"
    ]
    wide = [choice for choice in many.tried if choice.label.startswith("replay")]
    assert max(choice.memory for choice in wide) > tight


def test_inexact_strategies_are_ranked_by_what_a_study_says() -> None:
    costs = LossCosts({"auto": 1e-9, "checkfree_plus": 50.0, "checkpoint": 9.0}, noise=0.01)
    found = plan_fleet(TREE, rate=0.5, costs=costs)
    inexact = [choice for choice in found.choices if not choice.exact]
    assert [choice.label for choice in inexact] == ["auto", "checkfree_plus"]
    auto, plus = inexact
    assert not auto.out and plus.gap == pytest.approx(50.0 * plus.losses)
    assert found.choices[-1] == plus and plus.gap is not None and plus.gap > 0.01
    assert replace(auto, gap=None) == next(c for c in found.tried if c.label == "auto"), (
        "auto goes by its hours"
    )


# --- the command ---------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "demo", "--fleet=home", "--rate=0.5", "--memory=2GiB", "--price=0.4", *WORDS]
    assert main([*words, f"--json={tmp_path / 'plan.json'}"]) == 0
    shown = capsys.readouterr().out
    told = json.loads((tmp_path / "plan.json").read_text())
    assert "Fastest of the exact strategies: " + told["fastest"] in shown
    assert "Cheapest of them" in shown and "Young" in shown and "not ranked" in shown
    assert {c["label"].partition("(")[0] for c in told["choices"] if c["exact"]} == set(EXACT)
    assert told["rate"] == 0.5 and told["undisturbed"]["hours"] > 0


def test_it_ranks_by_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = summary(tmp_path / "report", row("auto", 0.02, 4), row("custom:Thing", 0.1, 1))
    words = ["plan", "demo", "--fleet=home", "--rate=0.5", *WORDS]
    assert main([*words, f"--costs={folder}"]) == 0
    shown = capsys.readouterr().out
    assert "gap, nats" in shown and "Ranked by gap" in shown and "--costs" not in shown


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--rate=0"], "--rate 0: expected percent"),
        (["--rate=nan"], "--rate nan: expected percent"),
        (["--rate=100"], "--rate 100: expected percent"),
        (["--rate=5", "--memory=much"], "--memory 'much' is no number of bytes"),
        (["--rate=5", "--memory=0"], "--memory '0' is less than a byte"),
        (["--rate=5", "--price=-1"], "fleet.price=-1"),
        (["--rate=5", "--price=inf"], "fleet.price=inf"),
        (["--rate=5", "--seeds=0"], "seeds"),
        (["--rate=5", "--fleet=moon"], "moon"),
        (["--rate=5", "iterations=3"], "iterations=3: expected at least 20"),
        (["--rate=5", "--costs=nowhere"], "nowhere holds no summary.csv"),
        (["--rate=5", "failures.stages=[9]"], "9"),
        (["--rate=5", "recovery.copies=5"], "recovery.copies=5"),
    ],
)
def test_bad_values_are_refused_in_a_line(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "demo", *WORDS, *words]) == 2
    shown = capsys.readouterr()
    assert says in shown.err and shown.err.count("\n") == 1 and not shown.out

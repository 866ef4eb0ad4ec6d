"""The parts of branching that train nothing: gaps, noise, table, and what is asked for."""

from __future__ import annotations

import csv
import io
import json
import random
import statistics
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from checkfree.core.config import Config, RecoveryConfig
from checkfree.core.errors import BadInput
from checkfree.core.ops import Address, Mirror, Upload
from checkfree.recovery.checkpoint import Checkpoint
from checkfree.recovery.options import CheckpointOptions
from checkfree.recovery.redundant import Redundant
from checkfree.report.branches import Branch, Branching, noise, render, rows, to_csv, to_tree
from checkfree.report.branches_plot import draw_branches
from checkfree.study.branching.request import (
    BranchRequest,
    check_request,
    check_stages,
    lead_in,
    losses_of_seats,
    rules_of,
    tick_at,
    undisturbed_from,
)

TRUNK = {0: 3.0, 10: 2.9, 20: 2.8, 30: 2.71}
SEATS = tuple(Address(stage) for stage in range(5))


def found(*branches: Branch, **changes: Any) -> Branching:
    base = {"run": "runs/demo", "at": 300, "gaps": (0, 10, 30), "trunk": TRUNK, "microbatches": 8}
    return Branching(**{**base, "branches": branches, **changes})


def exact() -> Branch:
    return Branch(2, "redundant", readings=TRUNK, made="redundant copy of 1")


def refused() -> Branch:
    return Branch(1, "checkfree", reason="stage 1 stands at the edge")


# --- gaps and their noise ------------------------------------------------------------------------


def test_a_gap_is_over_the_run_itself() -> None:
    branch = Branch(2, "copy", readings={0: 3.5, 10: 2.8})
    assert branch.gap(0, TRUNK) == 0.5
    assert branch.gap(10, TRUNK) == pytest.approx(-0.1)
    assert branch.gap(30, TRUNK) is None


def test_noise_of_a_straight_line_is_none() -> None:
    assert noise({steps: 3 - steps / 8 for steps in range(0, 90, 10)}) == 0


@pytest.mark.parametrize("scatter", [0.01, 0.3])
def test_noise_is_found_under_a_trend(scatter: float) -> None:
    draw = random.Random(1)
    readings = {n: 4 - 0.01 * n + draw.gauss(0, scatter) for n in range(2000)}
    assert noise(readings) == pytest.approx(scatter, rel=0.05)


def test_two_readings_tell_no_noise() -> None:
    assert noise({0: 1.0, 10: 2.0}) is None
    assert "not known" in render(found(exact(), trunk={0: 3.0, 10: 2.9}))


# --- the table -----------------------------------------------------------------------------------


def test_initialisations_share_a_row() -> None:
    starts = [Branch(2, "random", reinit=n, readings={0: 3.0 + n / 4}) for n in range(3)]
    (row,) = rows(found(*starts))
    assert (row.count, row.gaps[0]) == (3, 0.25)
    assert row.spread[0] == pytest.approx(statistics.stdev([0, 0.25, 0.5]))
    assert row.gaps[1:] == (None, None)
    assert "random (mean of 3)" in render(found(*starts))


def test_the_table_as_text() -> None:
    worse = Branch(2, "copy", readings={0: 3.5, 10: 2.90001, 30: 2.7}, made="copy of 1", mark="m")
    lines = render(found(exact(), worse, refused())).splitlines()
    assert "iteration 300 of runs/demo" in lines[0]
    assert lines[2:6] == [
        "stage  rule            +0  +10      +30  rebuilt by",
        "    2  redundant        0    0        0  redundant copy of 1",
        "    2  copy       +0.5000   ~0  -0.0100  copy of 1; m",
        "    1  checkfree        –    –        –  refused [1]",
    ]
    assert lines[-1] == "[1] stage 1 stands at the edge"


def test_a_rollback_is_told() -> None:
    (row,) = rows(found(Branch(2, "checkpoint", made="checkpoint of store", rolled_back=7)))
    assert row.remark == "checkpoint of store; back 7 iterations"


def test_csv_has_a_line_per_branch_and_gap() -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(found(exact(), refused())))))
    assert [line["steps"] for line in lines] == ["0", "10", "30"] * 2
    assert [line["gap"] for line in lines] == ["0.0"] * 3 + [""] * 3
    assert lines[3]["reason"] == refused().reason


def test_all_of_it_is_plain_data() -> None:
    tree = json.loads(json.dumps(to_tree(found(exact(), refused()))))
    assert tree["branches"][0]["readings"] == tree["uninterrupted"]


@pytest.mark.parametrize("stages", [1, 4])
def test_the_picture(tmp_path: Path, stages: int) -> None:
    branches = [Branch(s, rule, readings=TRUNK) for s in range(stages) for rule in "abcdefghij"]
    draw_branches(found(*branches, refused()), tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


# --- what is asked for ---------------------------------------------------------------------------


def test_a_rule_keeps_what_the_run_has_set() -> None:
    rule, other = rules_of(("checkfree(exponent=1)", "copy", "copy"), Config())
    assert (rule.config.name, rule.config.exponent) == ("checkfree", 1.0)
    assert other.config.name == "copy"


def test_a_rule_with_another_format_of_shadows_pushes_as_suits_it() -> None:
    run = Config(recovery=RecoveryConfig("auto", shadow_format="int4", shadow_every=30))
    labels = ("shadow", "shadow(shadow_format=signs)", "shadow(shadow_format=signs,shadow_every=9)")
    own, other, told = (rule.config for rule in rules_of(labels, run))
    assert (own.shadow_format, own.shadow_every) == ("int4", 30)
    assert (other.shadow_format, other.shadow_every) == ("signs", None)
    assert (told.shadow_format, told.shadow_every) == ("signs", 9)


@pytest.mark.parametrize(
    ("rule", "parts"),
    [
        ("hope", ("hope", "checkfree_plus", "redundant")),
        ("checkfree(exponents=1)", ("recovery.exponents", "recovery.exponent")),
        ("checkfree(exponent=3)", ("exponent=3", "1 or 2")),
        ("copy(failures.stages=middle)", ("copy", "failures")),
    ],
)
def test_rules_that_are_none(rule: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(BadInput, match="--rules") as error:
        rules_of((rule,), Config())
    assert [part for part in parts if part not in str(error.value)] == []


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"at": -1}, "--at"),
        ({"gaps": ()}, "--gaps"),
        ({"gaps": (0, 50, 10)}, "--gaps"),
        ({"gaps": (0, 0)}, "--gaps"),
        ({"gaps": (-5, 0)}, "--gaps"),
        ({"stages": ()}, "--stages"),
        ({"rules": ()}, "--rules"),
        ({"reinits": 0}, "--seeds-of-reinit"),
    ],
)
def test_requests_that_are_none(changes: dict[str, Any], option: str) -> None:
    base = {"run": Path("run"), "at": 3, "stages": (2,), "rules": ("copy",)}
    check_request(BranchRequest(**base))
    with pytest.raises(BadInput, match=option):
        check_request(BranchRequest(**{**base, **changes}))


def test_stages_that_a_run_has_not_got() -> None:
    check_stages((0, 4), 4)
    with pytest.raises(BadInput, match=r"stage 5.*0 … 4"):
        check_stages((2, 5), 4)


# --- where branches begin ------------------------------------------------------------------------


class Staggered(Redundant):
    """Every stage is put aside every six iterations, one after the other."""

    def replications(
        self, version: int, workers: Collection[Address]
    ) -> tuple[Mirror | Upload, ...]:
        owners = [seat for seat in workers if seat.stage == version % 6]
        return tuple(Upload(seat) for seat in owners)


def test_a_rule_that_puts_nothing_aside_begins_at_the_loss() -> None:
    assert lead_in(Redundant(), 50, 0, SEATS) == 50


@pytest.mark.parametrize(
    ("at", "earliest", "start"), [(50, 0, 48), (48, 0, 48), (50, 49, 50), (7, 0, 0)]
)
def test_a_rule_begins_where_it_last_put_aside(at: int, earliest: int, start: int) -> None:
    assert lead_in(Checkpoint(CheckpointOptions(8)), at, earliest, SEATS) == start


def test_a_rule_begins_where_every_stage_was_put_aside() -> None:
    assert lead_in(Staggered(), 50, 0, SEATS) == 45  # 50, 49, 48, 46, 45 hold 2, 1, 0, 4, 3


def step(tick: int, iteration: int) -> dict[str, Any]:
    return {"kind": "iteration", "tick": tick, "iteration": iteration, "loss": 1.0}


def test_ticks_and_losses_of_a_run_that_rolled_back() -> None:
    lost = {"kind": "failure", "tick": 3, "seats": ["2.0", "3.1"]}
    records = [*(step(t, t) for t in range(3)), lost, *(step(t, t - 2) for t in range(3, 7))]
    assert [tick_at(records, i) for i in range(7)] == [0, 1, 2, 3, 6, 7, None]
    assert losses_of_seats(records, 4) == {3: (Address(2), Address(3, 1))}
    assert losses_of_seats(records, 3) == {}
    assert undisturbed_from(records, {3: ()}) == 3
    assert undisturbed_from(records, {}) == 0

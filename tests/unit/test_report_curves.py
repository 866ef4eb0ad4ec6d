"""The loss curve: its numbers as data, and that any run at all can be drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkfree.report.loss_marks import (
    Jump,
    StyledLine,
    iteration_at,
    jumps,
    labels,
    line,
    names,
    rolled_back,
    rules,
    smooth,
    smooth_line,
)
from checkfree.report.run import draw_run

NAN = math.nan


def trained(*iterations: int) -> list[dict[str, float]]:
    return [
        {"iteration": at, "tick": tick, "loss": 5 / (at + 1)} for tick, at in enumerate(iterations)
    ]


def lost(tick: int, *stages: int) -> dict[str, object]:
    seats = [f"{stage}.0" for stage in stages]
    return {"tick": tick, "iteration": tick, "stages": list(stages), "seats": seats}


def test_lines_are_in_order_of_ticks_and_mark_what_is_no_number() -> None:
    records: list[dict[str, Any]] = [
        {"tick": 2, "loss": None},
        {"tick": 1, "loss": 3.0},
        {"iteration": 3, "loss": math.inf},
        {"loss": 1.0},
    ]
    found = line(records)
    assert found.ticks == (1, 2, 3)
    assert found.losses[0] == 3 and all(map(math.isnan, found.losses[1:]))


def test_smoothing_is_centred_and_passes_over_holes() -> None:
    assert smooth([1.0, 2.0, 6.0, NAN, 4.0], 3) == (1.5, 3.0, 4.0, 5.0, 4.0)
    assert math.isnan(smooth([NAN], 5)[0])


def test_smoothing_stops_at_rollbacks() -> None:
    shown = StyledLine((0, 1, 2, 3, 4, 5), (1.0, 1.0, 1.0, 9.0, 9.0, 9.0))
    assert smooth_line(shown, 5, [3.0]) == shown
    assert smooth_line(shown, 5, []) != shown


@given(st.lists(st.floats(-5, 5), min_size=1), st.integers(1, 9))
def test_smoothing_stays_between_the_extremes(losses: list[float], width: int) -> None:
    for mean in smooth(losses, width):
        assert min(losses) - 1e-9 <= mean <= max(losses) + 1e-9


def test_rolled_back_spans() -> None:
    assert rolled_back(trained(0, 1, 2, 3, 1, 2, 3, 4, 3, 4, 5)) == ((4, 7), (8, 10))
    assert rolled_back(trained(0, 1, 2)) == ()


def test_iteration_at() -> None:
    records = trained(0, 1, 2, 1, 2, 3)
    assert [iteration_at(records, tick) for tick in (-1, 0, 3, 3.5, 99)] == [None, 0, 1, 1, 3]


def test_names_tell_stages_from_seats() -> None:
    assert names(lost(1, 2, 3)) == ("S2", "S3")
    assert names({"stages": [2], "seats": ["2.0", "2.1", "3.1"]}) == ("S2", "3.1")
    assert names({}) == ()


def test_jumps_prefer_the_recovery_s_own_figures() -> None:
    validations = [
        {"tick": 0, "loss": 5.0},
        {"tick": 10, "loss": 4.0},
        {"tick": 12, "loss": 4.5, "after_repair": True},
        {"tick": 20, "loss": 3.0},
    ]
    assert jumps([], validations) == (Jump(12, 4.0, 4.5),)
    assert jumps([{"tick": 12}], validations) == (Jump(12, 4.0, 4.5),)
    own = {"tick": 12, "validation_before": 4.1, "validation_after": 4.6}
    assert jumps([own], validations) == (Jump(12, 4.1, 4.6),)
    assert jumps([{"tick": 12, "before": 4.2, "after": 4.7}], []) == (Jump(12, 4.2, 4.7),)


def test_rules_are_counted_from_either_form() -> None:
    records: list[dict[str, Any]] = [
        {"rules": {"2.0": "average", "1.0": "copy"}},
        {"rebuilds": {"3.0": {"rule": "average"}}},
        {},
    ]
    assert rules(records) == "average 2, copy 1"
    more = [*records, {"rules": {"3.0": "replay"}}, {"rules": {"4.0": "shadow", "5.0": "mine"}}]
    assert rules(more) == "replay 1 (exact), shadow 1, average 2, copy 1, mine 1"


def test_labels_join_where_they_would_touch() -> None:
    failures = [lost(10, 2), lost(11, 4), lost(50, 1, 2, 3, 4), lost(80, 5)]
    found = labels(failures, 1.0, 0.0, 100.0)
    assert [(label.text, label.x) for label in found] == [
        ("S2 S4", 10.5),
        ("4 losses", 50.0),
        ("S5", 80.0),
    ]


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(1, 9)), max_size=40))
def test_labels_neither_overlap_nor_leave_the_axis(where: Sequence[tuple[int, int]]) -> None:
    found = labels([lost(tick, stage) for tick, stage in where], 0.8, 0.0, 100.0)
    spans = [(label.x - label.half, label.x + label.half) for label in found]
    assert all(left[1] <= right[0] + 1e-9 for left, right in pairwise(spans))
    assert all(low >= -1e-9 and high <= 100 + 1e-9 for low, high in spans)
    assert sum(label.count for label in found) == len(where)


VALIDATIONS = [
    {"tick": 0, "iteration": 0, "loss": 5.0, "after_repair": False},
    {"tick": 2, "iteration": 2, "loss": 4.0, "after_repair": True},
    {"tick": 4, "iteration": 4, "loss": 3.0, "after_repair": False},
]
RECOVERY = {"tick": 2, "rules": {"2.0": "average"}}

Runs = tuple[Sequence[Mapping[str, Any]], ...]

ODD: dict[str, Runs] = {
    "nothing": ([], [], [], []),
    "one iteration": (trained(0), [], [], []),
    "no failures": (trained(*range(50)), VALIDATIONS, [], []),
    "failure and repair": (trained(*range(50)), VALIDATIONS, [lost(2, 2)], [RECOVERY]),
    "only failures": ([], [], [lost(2, 2)], []),
    "many failures": (trained(*range(90)), [], [lost(t, t % 6) for t in range(90)], []),
    "seat only": (trained(0, 1, 2), [], [{"tick": 1, "stages": [], "seats": ["2.1"]}], []),
    "rollback": (trained(*range(30), *range(20, 40)), VALIDATIONS, [lost(30, 1)], [RECOVERY]),
    "all NaN": ([{"tick": tick, "loss": NAN} for tick in range(40)], [{"loss": None}], [], []),
    "some NaN": ([{"tick": t, "loss": NAN if t % 3 else 1.0} for t in range(40)], [], [], []),
    "bare records": ([{}, {"tick": 1}], [{}], [{}, {"tick": 0}], [{}, {"tick": 1}]),
}


@pytest.mark.parametrize("run", ODD.values(), ids=ODD.keys())
def test_any_run_can_be_drawn(run: Runs, tmp_path: Path) -> None:
    path = tmp_path / "loss.png"
    draw_run(*run, path=path, title="a run")  # type: ignore[misc]
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert [int.from_bytes(content[at : at + 4], "big") for at in (16, 20)] == [1350, 630]


def test_failures_and_validations_change_the_picture(tmp_path: Path) -> None:
    records = trained(*range(50))
    runs: list[Runs] = [
        (records, [], [], []),
        (records, VALIDATIONS, [], []),
        (records, VALIDATIONS, [lost(2, 2)], []),
        (records, VALIDATIONS, [lost(2, 3)], []),
        (records, VALIDATIONS, [lost(2, 3)], [RECOVERY]),
    ]
    drawn = set()
    for place, run in enumerate(runs):
        path = tmp_path / f"{place}.png"
        draw_run(*run, path=path, title="a run")  # type: ignore[misc]
        drawn.add(path.read_bytes())
    assert len(drawn) == len(runs)

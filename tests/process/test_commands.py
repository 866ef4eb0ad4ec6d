"""What the commands do and say, on runs of a few iterations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from checkfree.core.records import of_kind, read
from tests.process.command import end_of, losses, numbers, only_line, prepare, run

ADJACENT = ({"iteration": 12, "stage": 2}, {"iteration": 12, "stage": 3})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that lost nothing."""
    folder = prepare(tmp_path_factory.mktemp("base"))
    trace(folder, {"iteration": 2, "stage": 2})
    (folder / "failing.yaml").write_text(
        (folder / "small.yaml").read_text().replace("failures: none", "failures: trace.json")
    )
    run(folder, "train", "failing.yaml", "iterations=20", "failures=none", "out=run", "--quiet")
    return folder / "run"


def train(folder: Path, *words: str, expect: int = 0) -> Any:
    """Twenty iterations into ``run``."""
    return run(folder, "train", "small.yaml", "iterations=20", "out=run", *words, expect=expect)


def trace(folder: Path, *entries: Mapping[str, int]) -> None:
    (folder / "trace.json").write_text(json.dumps({"failures": entries}))


def rules(folder: Path) -> list[tuple[int, list[str]]]:
    """(tick, rule of each rebuilt seat) per recovery."""
    made = of_kind(read(folder), "recovery")
    return [(r["tick"], [seat["rule"] for seat in r["rebuilds"].values()]) for r in made]


def order(folder: Path) -> Sequence[int]:
    """The iterations that were trained, in order, repeated ones too."""
    return [step["iteration"] for step in of_kind(read(folder), "iteration")]


# --- train ---------------------------------------------------------------------------------------


def test_failures_none_overrides_the_file(base: Path) -> None:
    assert order(base) == list(range(20))
    assert of_kind(read(base), "failure") == []
    assert end_of(base)["status"] == "done"


def test_result_on_stdout_and_progress_on_stderr(folder: Path, base: Path) -> None:
    trace(folder, {"iteration": 7, "stage": 2})
    made = train(folder, "failures=trace.json")
    last = losses(folder / "run")[19]
    assert made.stdout == f"20 iterations in run; last loss {last:.4f}\n"
    assert "tick 7: lost 2.0" in made.stderr
    assert "weighted average of 1.0" in made.stderr
    assert rules(folder / "run") == [(7, ["weighted average"])]
    before, after = losses(folder / "run"), losses(base)
    assert [before[i] == after[i] for i in (6, 7)] == [True, False]


def test_quiet_prints_the_result_only(folder: Path, base: Path) -> None:
    trace(folder, {"iteration": 7, "stage": 2})
    made = train(
        folder,
        "--quiet",
        "failures=trace.json",
        "recovery=redundant",
        "recompute=true",
        "schedule=gpipe",
    )
    assert made.stderr == ""
    assert len(made.stdout.splitlines()) == 1
    assert rules(folder / "run") == [(7, ["redundant copy"])]
    assert losses(folder / "run") == losses(base)


def test_checkpoint_trains_what_it_lost_again(folder: Path, base: Path) -> None:
    trace(folder, {"iteration": 12, "stage": 1}, {"iteration": 15, "stage": 0})
    train(folder, "failures=trace.json", "recovery=checkpoint(interval=5)")
    steps = [*range(12), *range(10, 13), *range(10, 20)]
    assert order(folder / "run") == steps
    assert losses(folder / "run") == losses(base)


def test_a_replica_is_an_exact_copy(folder: Path) -> None:
    trace(folder, {"iteration": 2, "stage": 3, "replica": 1}, {"iteration": 6, "stage": 2})
    train(folder, "iterations=7", "replicas=2", "failures=trace.json", "--quiet")
    assert rules(folder / "run") == [(2, ["replica"]), (6, ["weighted average"] * 2)]
    train(folder, "iterations=7", "replicas=2", "out=whole", "--quiet")
    hit, whole = losses(folder / "run"), losses(folder / "whole")
    assert [hit[i] == whole[i] for i in range(7)] == [True] * 6 + [False]


# --- a run that its strategy cannot save ---------------------------------------------------------


def test_a_run_that_cannot_be_saved_fails(folder: Path) -> None:
    trace(folder, *ADJACENT)
    made = train(folder, "failures=trace.json", "--quiet", expect=1)
    end = end_of(folder / "run")
    assert (end["status"], end["iteration"]) == ("failed", 12)
    assert end["reason"] in only_line(made)
    assert "2 and 3" in end["reason"]
    assert made.stdout == ""


def test_a_safety_net_saves_that_same_run(folder: Path, base: Path) -> None:
    trace(folder, *ADJACENT)
    train(folder, "failures=trace.json", "checkpoint.every=5", "--quiet")
    assert rules(folder / "run") == [(12, ["checkpoint"] * 5)]
    assert order(folder / "run") == [*range(12), *range(10, 20)]
    assert losses(folder / "run") == losses(base)


# --- the other commands --------------------------------------------------------------------------


def test_schedule_prints_and_draws(folder: Path) -> None:
    words = ("schedule", "small.yaml", "recovery=checkfree_plus", "--picture=timeline.svg")
    made = run(folder, *words)
    assert made.stderr == ""
    assert "F0@0" in made.stdout
    assert "route 0: 0.0 > 1.0 > 2.0 > 3.0 > 4.0 > 0.0" in made.stdout
    assert "route 1: 0.0 > 2.0 > 1.0 > 4.0 > 3.0 > 0.0" in made.stdout
    assert (folder / "timeline.svg").read_text().rstrip().endswith("</svg>")


def test_a_sampled_trace_is_the_run_s_own(folder: Path) -> None:
    chance = ("recovery=checkfree_plus", "failures.probability=0.04", "seed=3", "iterations=20")
    drawn = run(folder, "failures", "sample", "small.yaml", *chance, "--to=drawn.json")
    printed = run(folder, "failures", "sample", "small.yaml", *chance)
    assert printed.stdout == (folder / "drawn.json").read_text()
    shown = run(folder, "failures", "show", "drawn.json")
    count = len(json.loads(printed.stdout)["failures"])
    assert count >= 2
    for text in (drawn.stdout, shown.stdout):
        assert f"{count} failures" in text

    train(folder, *chance, "--quiet")
    own = json.loads((folder / "run" / "trace.json").read_text())["failures"]
    assert [f for f in own if f["iteration"] < 20] == json.loads(printed.stdout)["failures"]
    words = ("seed=3", "recovery=checkfree_plus", "iterations=20", "failures=drawn.json")
    run(folder, "train", "small.yaml", *words, "out=again", "--quiet")
    assert len(numbers(folder / "run")["failures"]) >= 2
    assert numbers(folder / "again") == numbers(folder / "run")

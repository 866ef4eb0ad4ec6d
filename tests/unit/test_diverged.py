"""A run whose loss is no finite number fails, in the middle and after its last step alike."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import checkfree
from checkfree.core.config import RecoveryConfig
from checkfree.core.records import dumps, of_kind
from checkfree.lead import history
from checkfree.lead.progress import Progress
from checkfree.recovery.wrappers import make_strategy
from checkfree.stage import Stage
from tests import tiny

NOT_FINITE = "is not finite: lower optimizer.lr or set optimizer.clip"


def words(folder: Path, **more: Any) -> dict[str, Any]:
    """The first step goes so far that no loss is left."""
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 50)
    settings = {
        "iterations": 1,
        "stages": 4,
        "microbatches": 2,
        "batch": 2,
        "out": str(folder / "run"),
        "model": {"width": 8, "heads": 2, "hidden": 8, "blocks": 4, "context": 8},
        "data": {"name": "text", "path": str(folder / "text.txt")},
        "failures": {"scenario": "none"},
        "validation": {"every": 3, "microbatches": 2},
        "optimizer": {"name": "sgd", "lr": 1e30, "warmup": 0},
    }
    return settings | more


@pytest.mark.parametrize("iterations", [1, 2])
def test_it_fails_wherever_it_ends(tmp_path: Path, iterations: int) -> None:
    run = checkfree.train(words(tmp_path, iterations=iterations))
    assert run.status == "failed" and "not finite" in run.reason and "\n" not in run.reason
    assert len(run.losses) == 1 and not (run.folder / "weights").exists()
    assert run.records[-1]["reason"] == run.reason
    if iterations == 1:
        assert run.reason.startswith(
            f"the validation loss after iteration 0, the last, {NOT_FINITE}"
        )
        assert [v["loss"] is None for v in of_kind(run.records, "validation")] == [False, True]


def test_a_comparison_shows_where_it_ended(tmp_path: Path) -> None:
    found = checkfree.compare(words(tmp_path), strategies=["none"], out=tmp_path / "compared")
    assert {row.group.label for row in found.rows} == {"no_failure", "none"}
    for row in found.rows:
        (run,) = row.group.runs
        assert not run.saved and run.end == 1 and NOT_FINITE in run.reason


def run_of(iterations: int) -> tiny.Run:
    """That is validated after every second step."""
    terms = {"iterations": iterations, "validation_every": 2}
    return tiny.make(make_strategy(RecoveryConfig("none")), stages=2, terms=terms)


def test_whoever_takes_over_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in the records when the lead is killed before it ends."""
    evaluated = Stage.evaluate

    def spoilt(stage: Stage, *args: Any) -> torch.Tensor:
        loss = evaluated(stage, *args)
        return loss * math.nan if stage.version == 2 else loss

    monkeypatch.setattr(Stage, "evaluate", spoilt)
    run = run_of(2)
    run.runtime.run()
    assert NOT_FINITE in run.lead.failure and not run.lead.done
    records = [json.loads(dumps(record)) for record in run.log.records]
    assert history(records, {}).progress.diverged
    assert not history(records[:-1], {}).progress.diverged


def test_in_the_middle_a_validation_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It changes nothing: the next step has a loss, or has none."""
    evaluated = Stage.evaluate

    def spoilt(stage: Stage, *args: Any) -> torch.Tensor:
        loss = evaluated(stage, *args)
        return loss * math.inf if stage.version == 2 else loss

    monkeypatch.setattr(Stage, "evaluate", spoilt)
    run = run_of(4)
    run.runtime.run()
    assert run.lead.done and not run.lead.failure
    assert [math.isfinite(v.loss) for v in run.of_kind("validation")] == [True, False, True]


@pytest.mark.parametrize(
    ("loss", "at", "diverged"),
    [(3.0, 5, False), (math.nan, 5, True), (math.inf, 5, True), (None, 5, True), (None, -1, False)],
)
def test_weights_without_a_finite_loss(loss: float | None, at: int, diverged: bool) -> None:
    assert Progress(tick=5, validation=loss, validated_at=at).diverged is diverged

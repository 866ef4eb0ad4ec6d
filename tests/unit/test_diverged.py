"""A run whose loss is no finite number fails, in the middle and after its last step alike."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import checkfree
from checkfree.cli import main
from checkfree.core.config import OptimizerConfig, RecoveryConfig
from checkfree.core.ops import LEAD, Address
from checkfree.core.rates import lower_lr
from checkfree.core.records import ValidationRecord, dumps, of_kind
from checkfree.lead import history
from checkfree.lead.progress import Progress
from checkfree.messages.control import WEIGHTS, Doubtful, Message, Push
from checkfree.messages.recorded import read_record
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


# --- without validations -------------------------------------------------------------------------

NEVER = {"validation": {"every": 0, "microbatches": 2}}


@pytest.mark.parametrize(
    ("optimizer", "fails"),
    [
        ({"name": "sgd", "lr": 1e30, "warmup": 0}, True),
        ({"lr": 1e30, "warmup": 0}, True),  # its weights are finite, and nothing made of them is
        ({"lr": 1e4, "warmup": 0}, False),  # large, and still good for a loss
        ({"lr": 1e-3, "warmup": 0}, False),
    ],
)
def test_weights_that_no_validation_sees(
    tmp_path: Path, optimizer: dict[str, Any], fails: bool
) -> None:
    run = checkfree.train(words(tmp_path, **NEVER, optimizer=optimizer))
    told = [v["loss"] for v in of_kind(run.records, "validation")]
    assert (run.status == "failed") is fails and (run.folder / "weights").exists() is not fails
    if fails:
        assert run.reason.startswith(
            f"the validation loss after iteration 0, the last, {NOT_FINITE}"
        )
        assert told == [None]
    else:
        assert len(told) == (optimizer["lr"] > 1) and None not in told  # only where in doubt
    assert not checkfree.verify(run.folder).difference


def spoil(monkeypatch: pytest.MonkeyPatch, version: int, value: float = math.nan) -> None:
    """The step to this version leaves one weight of stage 1 that is ``value``."""
    stepped = Stage.step

    def spoilt(stage: Stage, iteration: int, clip: float) -> None:
        stepped(stage, iteration, clip)
        if stage.version == version and "inner.weight" in stage.params:
            with torch.no_grad():
                stage.params["inner.weight"][0, 0] = value

    monkeypatch.setattr(Stage, "step", spoilt)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1e38])
def test_of_modules_of_ones_own_with_no_text_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """They are validated on the last batches that they trained on: there are no more."""
    feed = [tiny.batches(0, "train")(i, 0) for i in range(3)]
    spoil(monkeypatch, 3, value)
    monkeypatch.setattr(tiny.Body, "forward", lambda body, x: x + body.inner(body.inner(x)))
    run = checkfree.train(
        {"iterations": 3, "microbatches": 2, "out": str(tmp_path / "run"), "recovery": "none"},
        stages=[tiny.Edge(), tiny.Body(), tiny.Body()],
        batches=lambda iteration, microbatch: feed[iteration],
    )
    assert run.status == "failed" and NOT_FINITE in run.reason and len(run.losses) == 3


def test_a_branch_of_which_a_last_step_goes_too_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = {"optimizer": {"lr": 1e-3}, "iterations": 4, "resume": {"every": 1}}
    run = checkfree.train(words(tmp_path, **NEVER, **calm))
    assert run.status == "done"
    stepped = Stage.step

    def spoilt(stage: Stage, iteration: int, clip: float) -> None:
        stepped(stage, iteration, clip)
        if stage.version == 3:
            for param in stage.params.values():
                param.data.fill_(torch.nan)

    monkeypatch.setattr(Stage, "step", spoilt)
    found = checkfree.branch(run.folder, at=2, stages=[2], rules=["copy"], gaps=[0, 1])
    (branch,) = found.branches
    assert NOT_FINITE in branch.reason and branch.readings[1] is None
    assert isinstance(branch.readings[0], float)


def test_whoever_takes_over_while_they_are_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another lead knows nothing of the doubt, and asks again."""
    spoil(monkeypatch, 3)
    doubts = []

    def made() -> tiny.Run:
        return tiny.make(make_strategy(RecoveryConfig("none")), stages=2)

    def watch(to: Address, message: Message) -> None:
        if isinstance(message, Doubtful):
            doubts.append(message.sender)

    run = made()
    run.runtime.run(watch)
    assert NOT_FINITE in run.lead.failure and not run.lead.done
    assert len(doubts) == 2  # both bodies; the second is of an order that is over
    records = [json.loads(dumps(record)) for record in run.log.records]
    before = [record for record in records if record["kind"] != "validation"]
    assert not history(before, {}).progress.diverged and history(records, {}).progress.diverged


def test_a_doubt_holds_nobody_up_for_ever() -> None:
    """Not even one that is raised again and again, before the end and after it was answered."""
    run = tiny.make(make_strategy(RecoveryConfig("none")), stages=2)
    raised = 0

    def watch(to: Address, message: Message) -> None:
        nonlocal raised
        if raised < 1000 and not isinstance(message, Doubtful):
            run.runtime.post(LEAD, Doubtful(run.lead.progress.epoch, Address(1)))
            raised += 1

    run.runtime.run(watch)
    assert run.lead.done and not run.lead.failure
    assert len(run.of_kind("validation")) == 1


def test_what_was_validated_is_not_in_doubt() -> None:
    asked: list[bool] = []
    for every in (0, 3):
        terms = {"validation_every": every}
        run = tiny.make(make_strategy(RecoveryConfig("none")), stages=2, terms=terms)

        def watch(to: Address, message: Message) -> None:
            if isinstance(message, Push) and message.area == WEIGHTS:
                asked.append(message.doubted)

        run.runtime.run(watch)
    assert asked == [True] * 3 + [False] * 3


# --- what is told ---------------------------------------------------------------------------------


def test_a_loss_that_was_none_is_none_again() -> None:
    record = ValidationRecord(1, 1, math.nan, after_repair=False)
    read = read_record(json.loads(dumps(record)))
    assert isinstance(read, ValidationRecord) and math.isnan(read.loss) and read.seconds is None


@pytest.mark.parametrize(
    ("name", "lr", "lower"),
    [
        ("adamw", 4e-3, 2e-3),
        ("adam", 0.1, 0.05),
        ("adamw", 0.2, OptimizerConfig.lr),
        ("sgd", 1.0, 0.5),
        ("sgd", 1e30, OptimizerConfig.lr),
    ],
)
def test_a_rate_to_try(name: str, lr: float, lower: float) -> None:
    assert lower_lr(OptimizerConfig(name=name, lr=lr)) == lower


def test_the_reason_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text(json.dumps(words(tmp_path)))
    assert main(["train", str(tmp_path / "run.json")]) == 1
    told = capsys.readouterr().err
    assert told.count(NOT_FINITE) == 1 and told.splitlines()[-1].startswith("checkfree: the run")
    assert "failed at iteration 1" in told and f"optimizer.lr={OptimizerConfig.lr:g} " in told

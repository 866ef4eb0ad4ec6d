"""A replay on another kind of processor comes out with other bits: close to what was lost, which is
told, or too far from it, which is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import checkfree
from checkfree.cli import main
from checkfree.core.ops import Address, Transfer
from checkfree.core.records import of_kind
from checkfree.messages.control import Ticket
from checkfree.messages.tensors import KeepState
from checkfree.report.loss_marks import rules
from checkfree.session import session
from checkfree.session.verify import Outcome, equal
from checkfree.worker import replayable
from checkfree.worker.log import Sent, again
from checkfree.worker.replayable import Replayable
from checkfree.worker.stage_replay import relative_difference
from tests.contract.small import small, text, trace

BASE: dict[str, Any] = {
    "iterations": 16,
    "recovery": {"name": "replay", "wave_lag": 1, "wave_every": 4},
}
LOST = (7, 2), (12, 1)


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "draw", lambda folder: folder)
    torch.set_num_threads(1)


def otherwise(monkeypatch: pytest.MonkeyPatch, by: float) -> None:
    """What replays are sent is by that share larger than it was: so are the sums that a processor
    of another kind makes."""

    def larger(sent: Sequence[Sent], to: Address, ticket: Ticket) -> list[Any]:
        found = again(sent, to, ticket)
        return [(to, replace(what, tensor=what.tensor * (1 + by))) for to, what in found]

    monkeypatch.setattr(replayable, "again", larger)


def run_of(folder: Path, *more: dict[str, Any], **recovery: Any) -> checkfree.Run:
    lossy = {"failures": {"scenario": trace(folder.with_suffix(".json"), *LOST)}}
    shared = text(folder.parent / "text")
    return checkfree.train(small(folder, BASE, shared, lossy, {"recovery": recovery}, *more))


def test_a_close_replay_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exact = run_of(tmp_path / "exact")
    otherwise(monkeypatch, 1e-6)
    run = run_of(tmp_path / "close")
    assert (exact.status, run.status) == ("done", "done"), run.reason
    replays = of_kind(run.records, "replay")
    assert [(record["exact"], 0 < record["apart"] < 1e-4) for record in replays] == [
        (False, True)
    ] * 2
    assert all(r["exact"] and "apart" not in r for r in of_kind(exact.records, "replay"))
    made = of_kind(run.records, "recovery")
    assert rules(made) == "replay 2 (0 exact, 2 close)"
    assert all(record["validation_after"] is None for record in made)
    losses = [[r["loss"] for r in of_kind(one.records, "iteration")] for one in (exact, run)]
    assert losses[0][:7] == losses[1][:7]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)

    monkeypatch.undo()  # whoever verifies has not that processor
    outcome = checkfree.verify(run.folder)
    assert (outcome.difference, outcome.iterations, outcome.close_since) == ("", 16, 7)
    assert 0 < outcome.within < 1e-4
    assert main(["verify", str(run.folder), "--quiet"]) == 0
    assert "bit for bit until 7, where a replay was close" in capsys.readouterr().out


def test_under_muon_thousandths_are_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It rounds directions to bf16, in which a millionth of a gradient may become as much."""
    muon = {"optimizer": {"name": "muon"}}
    exact = run_of(tmp_path / "exact", muon)
    assert exact.status == "done" and all(r["exact"] for r in of_kind(exact.records, "replay"))

    def noisy(sent: Sequence[Sent], to: Address, ticket: Ticket) -> list[Any]:
        noise = torch.Generator().manual_seed(ticket.iteration)

        def rounded(tensor: Tensor) -> Tensor:
            return tensor * (1 + 1e-6 * torch.randn(tensor.shape, generator=noise))

        found = again(sent, to, ticket)
        return [(to, replace(what, tensor=rounded(what.tensor))) for to, what in found]

    monkeypatch.setattr(replayable, "again", noisy)
    apart = []
    for how in (muon, {}):
        run = run_of(tmp_path / f"run{len(apart)}", how, wave_every=8)
        assert run.status == "done", run.reason
        apart.append(max(r.get("apart", 0.0) for r in of_kind(run.records, "replay")))
    assert 1e-4 < apart[0] < 1e-2 and apart[1] < 1e-5, apart
    told = run_of(tmp_path / "told", muon, tolerance=1e-4, wave_every=8)
    assert "recovery.tolerance is 0.0001" in told.reason


@pytest.mark.parametrize(
    ("kind", "iteration", "times"), [("iteration", 14, 1.5), ("validation", 7, 1 + 1e-6)]
)
def test_losses_that_are_not_close_after_it_are_a_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, iteration: int, times: float
) -> None:
    """Before it those that are not the same, if it be in the very tick."""
    otherwise(monkeypatch, 1e-6)
    run = run_of(tmp_path / "run", {"validation": {"every": 7}})
    monkeypatch.undo()
    lines = [json.loads(line) for line in (run.folder / "records.jsonl").read_text().splitlines()]
    for line in lines:
        if (line["kind"], line.get("iteration")) == (kind, iteration):
            line["loss"] *= times
    (run.folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    outcome = checkfree.verify(run.folder)
    assert outcome.difference.startswith(
        f"{'iteration' if kind == 'iteration' else 'validation before'} {iteration},"
    )


def test_what_was_the_same_after_all_is_not_called_close() -> None:
    assert equal(Outcome(9, close_since=9)) == "9 iterations, losses equal bit for bit"
    assert "until 7, " in equal(Outcome(9, close_since=7, within=1e-6))


@pytest.mark.parametrize(("by", "tolerance"), [(1e-2, "auto"), (1e-6, 0)])
def test_what_is_not_close_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: float, tolerance: Any
) -> None:
    otherwise(monkeypatch, by)
    run = run_of(tmp_path / "run", tolerance=tolerance)
    assert run.status == "failed"
    assert "did not come out as it was" in run.reason
    assert "recovery.tolerance" in run.reason
    run = run_of(tmp_path / "auto", {"recovery": {"name": "auto"}}, tolerance=tolerance)
    assert run.status == "done", run.reason
    assert {
        m["rule"] for r in of_kind(run.records, "recovery") for m in r["rebuilds"].values()
    } == {"shadow"}


def test_a_tolerance_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    otherwise(monkeypatch, 1e-2)
    run = run_of(tmp_path / "run", tolerance=0.5)
    assert run.status == "done", run.reason
    apart = [record["apart"] for record in of_kind(run.records, "replay")]
    assert len(apart) == 2
    assert all(1e-4 < share < 0.5 for share in apart)


def damaging(monkeypatch: pytest.MonkeyPatch, *held: tuple[int, int]) -> None:
    """A bit of what a stage holds of another is wrong: pairs of owner and holder."""
    hold = Replayable.hold

    def damaged(self: Replayable, message: KeepState) -> Any:
        assert isinstance(message.keep, Transfer)
        if (message.keep.owner.stage, self._seat.stage) in held:
            next(iter(message.state.params.values())).view(-1)[0] += 1e-7
        return hold(self, message)

    monkeypatch.setattr(Replayable, "hold", damaged)


def test_a_damaged_copy_is_not_begun_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one is."""
    plain = checkfree.train(small(tmp_path / "plain", BASE, text(tmp_path / "text")))
    damaging(monkeypatch, (2, 0), (1, 3))  # those that are asked first
    run = run_of(tmp_path / "two", copies=2)
    assert run.status == "done", run.reason
    assert all(record["exact"] for record in of_kind(run.records, "replay"))
    tried = [
        rung["why"]
        for record in of_kind(run.records, "recovery")
        for how in record["rebuilds"].values()
        for rung in how.get("rejected", ())
    ]
    assert len(tried) == 2
    assert all("is not what was copied" in why for why in tried)
    for one, other in zip(run.stages, plain.stages, strict=True):
        pairs = zip(one.parameters(), other.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_a_copy_that_was_the_only_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaging(monkeypatch, (2, 4))
    run = run_of(tmp_path / "run")
    assert run.status == "failed"
    assert "the copy of version 4 is not what was copied" in run.reason


@pytest.mark.parametrize("tolerance", [-1, 1, "much", float("nan"), None, True])
def test_a_tolerance_that_is_none(
    tolerance: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    word = json.dumps(tolerance) if tolerance is None or tolerance is True else tolerance
    assert main(["train", "demo", f"recovery.tolerance={word}", f"out={tmp_path / 'run'}"]) == 2
    assert "expected auto, or a share from 0" in capsys.readouterr().err


def test_relative_differences() -> None:
    assert relative_difference(0.0, 0.0) == 0.0
    assert relative_difference(1.0, 0.0) == 1.0
    assert relative_difference(2.0, 1.0) == relative_difference(1.0, 2.0) == 0.5
    assert relative_difference(math.nan, 1.0) == relative_difference(1.0, math.inf) == math.inf

"""Where a replay does not come out as it was, all may go back to the last copies, and train on from
there: nothing is lost but time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import checkfree
from checkfree.core.records import of_kind
from checkfree.messages.control import Rebuilt
from checkfree.session import session
from checkfree.worker.stage_replay import StageReplay
from tests.contract.small import small, text, trace

BASE: dict[str, Any] = {
    "iterations": 14,
    "recovery": {"name": "auto", "wave_lag": 1, "wave_every": 3, "shadow_every": 5},
}
LOST = (2, 1), (8, 2), (11, 0)
"""The first before there was a wave: back to what the seed makes."""


@pytest.fixture(autouse=True)
def another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that computes otherwise than whoever did before, as what is replayed comes out."""

    def finish(self: StageReplay) -> Rebuilt:
        self.told = True
        return replace(self.answer, problem="it came out another way", rejected=True)

    monkeypatch.setattr(StageReplay, "finish", finish)
    monkeypatch.setattr(session, "draw", lambda folder: folder)
    torch.set_num_threads(1)


@pytest.mark.parametrize("replicas", [1, 2])
def test_all_go_back_to_the_last_copies(tmp_path: Path, replicas: int) -> None:
    shared = text(tmp_path / "text")
    lost = [(tick, stage, seat) for tick, stage in LOST for seat in range(replicas)]
    lossy = {"failures": {"scenario": trace(tmp_path / "lost.json", *lost)}, "replicas": replicas}
    most = {"recovery": {"most_rollback": 6}}
    plain = checkfree.train(small(tmp_path / "plain", BASE, shared, {"replicas": replicas}))
    run = checkfree.train(small(tmp_path / "run", BASE, shared, most, lossy))
    assert run.status == "done", run.reason
    made = of_kind(run.records, "recovery")
    assert [{how["rule"] for how in record["rebuilds"].values()} for record in made] == [
        {"wave"}
    ] * len(LOST)
    assert [record["resume_at"] for record in made] == [0, 3, 3]
    for one, other in zip(run.stages, plain.stages, strict=True):
        pairs = zip(one.parameters(), other.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert checkfree.verify(run.folder).difference == ""


def test_nobody_goes_back_further_than_is_allowed(tmp_path: Path) -> None:
    lossy = {"failures": {"scenario": trace(tmp_path / "lost.json", (8, 2))}}
    for most in (0, 1):
        most_rollback = {"recovery": {"most_rollback": most}}
        words = small(tmp_path / str(most), BASE, text(tmp_path / "text"), lossy, most_rollback)
        run = checkfree.train(words)
        (record,) = of_kind(run.records, "recovery")
        assert {how["rule"] for how in record["rebuilds"].values()} == {"shadow"}
        assert record["lost_iterations"] == 0

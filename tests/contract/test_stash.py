"""Whatever becomes of what seats hold between forward and backward, a run has the same bits, and no
seat has more of it in memory than its schedule promises."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import checkfree
from checkfree.core.ops import Kind, Op
from checkfree.core.records import of_kind
from checkfree.pipeline.stash import in_memory
from checkfree.session import session
from checkfree.stage import offload
from checkfree.worker.attempt import Attempt
from checkfree.worker.compute import Compute
from tests.chaos import SOAK
from tests.contract.small import small, text, trace

ALL = {"stash": "offload", "stash_room": 0}
MIXED = {"stash": {"offload": [0, 1, 4], "recompute": [2]}, "stash_room": 0}
LONG = {"iterations": 2, "microbatches": 9, "model": {"dropout": 0.3}}
RUNS: dict[str, dict[str, Any]] = {
    "zb_h2, two replicas": {"schedule": "zb_h2", "replicas": 2, "microbatches": 12},
    "1f1b": {},
    "gpipe, bf16, swapped": {
        **{"schedule": "gpipe", "precision": "bf16", "recovery": {"name": "checkfree_plus"}},
    },
}


@pytest.fixture(autouse=True)
def everything_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(offload, "LEAST", 1)
    monkeypatch.setattr(session, "draw", lambda folder: folder)  # pictures take longer than runs


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each op of seats that offload, how many microbatches are in memory after it; no more than
    the schedule says."""
    found: list[int] = []
    run = Compute.run

    def one(hop: int) -> int:
        return 1 if hop else 0

    def checked(self: Compute, attempt: Attempt, op: Op) -> Any:
        made, stage = run(self, attempt, op), self.stage
        if not attempt.training or stage.offloads is None or op.kind is Kind.REDUCE:
            return made
        assert attempt.moves is not None
        ops: Sequence[Op] = attempt.plan.schedule[attempt.address]
        bound = [*in_memory(ops, attempt.moves, one)][ops.index(op)]
        kept = [key for key in (*stage._stash, *stage._halves) if key[1]]
        parcels = [parcel for parcel, _ in stage._parcels.values()]
        gone = sum(all(one.bytes is None for one in parcel.memories) for parcel in parcels)
        found.append(len(kept) - gone)
        assert found[-1] <= bound
        return made

    monkeypatch.setattr(Compute, "run", checked)
    return found


@pytest.mark.parametrize("name", [*RUNS][: None if SOAK else 1])
def test_no_bit_depends_on_the_stash(name: str, tmp_path: Path, watched: list[int]) -> None:
    built_in, runs = text(tmp_path / "text.txt"), []
    for number, how in enumerate(({}, MIXED, *[ALL] * SOAK)):
        config = small(tmp_path / str(number), built_in, LONG, RUNS[name], how)
        runs.append(checkfree.train(config))
    kept, *others = runs
    for other in others:
        assert other.losses == kept.losses
        for one, stage in zip(kept.stages, other.stages, strict=True):
            assert all(map(torch.equal, one.state_dict().values(), stage.state_dict().values()))
    assert watched
    assert not [one for one in threading.enumerate() if one.name == "checkfree-stash"]


def test_nor_does_a_replay_or_an_iteration_that_is_given_up(
    tmp_path: Path, watched: list[int]
) -> None:
    built_in, runs = text(tmp_path / "text.txt"), []
    for number, how in enumerate(({}, ALL)):
        lost = trace(tmp_path / "trace.json", (1, 2), (2, 1), (2, 4))
        config = small(
            tmp_path / str(number),
            *(built_in, LONG, how, {"iterations": 3, "recovery": {"name": "replay"}}),
            {"failures": {"scenario": lost}},
        )
        runs.append(checkfree.train(config))
    assert runs[0].losses == runs[1].losses and len(of_kind(runs[1].records, "recovery")) >= 2
    assert watched


def test_a_run_goes_on_with_another(tmp_path: Path) -> None:
    """And has it in its folder then."""
    built_in = text(tmp_path / "text.txt")
    whole = checkfree.train(small(tmp_path / "whole", built_in, LONG))
    config = small(tmp_path / "cut", built_in, LONG, {"resume": {"every": 1}})

    def stop(record: Any) -> None:
        if record.kind == "iteration" and record.iteration == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkfree.train(config, listeners=[stop])
    run = checkfree.resume(config.out, ["stash=offload", "stash_room=0"])
    assert run.losses == whole.losses and run.config.stash == "offload"
    assert "stash: offload" in (run.folder / "config.yaml").read_text()


def test_auto_is_told_and_written_down(tmp_path: Path) -> None:
    config = small(tmp_path / "run", text(tmp_path / "text.txt"), LONG, {"stash": "auto"})
    run = checkfree.train(config)
    first = run.records[0]
    assert first["stash"].startswith("stash=auto: all keep") and run.config.stash == "keep"
    assert first["config"]["stash"] == "keep"


@pytest.mark.parametrize("path", ["gone", "text.txt"])
def test_a_folder_that_is_none_is_refused(path: str, tmp_path: Path) -> None:
    built_in, where = text(tmp_path / "text.txt"), {"stash_path": str(tmp_path / path)}
    with pytest.raises(checkfree.BadInput, match=r"stash_path=.*: (No such|Not a).*stash=recompu"):
        checkfree.train(small(tmp_path / "run", built_in, LONG, ALL, where))
    assert not (tmp_path / "run").exists()

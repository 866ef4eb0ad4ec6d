"""A recorded run on a machine that has less than the one that began it: it goes on, is trained
again or branched where that can be, and else is told what can be done there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

import checkfree
from checkfree.cli import main
from checkfree.config.load import load, to_tree
from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.session import log_disk, memory, session
from checkfree.session.memory import least_bytes, without_logs
from tests.contract.small import small, text


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures take longer than the runs."""
    monkeypatch.setattr(session, "draw", lambda folder: folder)
    torch.set_num_threads(1)


@pytest.fixture(params=["auto", "replay"])
def cut(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Config]:
    """A run that was stopped in the middle, and its configuration."""
    recovery = {"name": request.param, "wave_lag": 1}
    about = {"iterations": 8, "recovery": recovery, "resume": {"every": 2}}
    config = small(tmp_path / "run", about, text(tmp_path / "text"))

    def stop(record: Any) -> None:
        if record.kind == "iteration" and record.iteration == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkfree.train(config, listeners=[stop])
    return tmp_path / "run", load(tmp_path / "run" / "config.yaml")


def has(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """So much memory there is."""
    monkeypatch.setattr(memory, "available", lambda: free)


def on_disk(config: Config) -> int:
    return least_bytes(log_disk.logging_to(config, "/tmp"))


def test_its_logs_go_to_a_disk(
    cut: tuple[Path, Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is no part of a run; and it is the run that was never stopped."""
    run, config = cut
    has(monkeypatch, on_disk(config))
    with pytest.raises(BadInput, match=r"available: give recovery\.log_path=FOLDER") as caught:
        checkfree.resume(run)
    assert "\n" not in str(caught.value) and "lower" not in str(caught.value)
    (tmp_path / "logs").mkdir()
    resumed = checkfree.resume(run, [f"recovery.log_path={tmp_path}/logs"])
    has(monkeypatch, 1 << 60)
    whole = checkfree.train({**to_tree(config), "out": str(tmp_path / "whole")})
    assert resumed.status == "done" and resumed.losses == whole.losses


def test_without_logs_it_is_another_run(
    cut: tuple[Path, Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun from its state by the command that the line gives."""
    run, config = cut
    has(monkeypatch, least_bytes(without_logs(config)))
    with pytest.raises(BadInput) as caught:
        checkfree.resume(run)
    told = str(caught.value)
    assert "log_path" not in told and f"checkfree swarm lead --resume {run}" in told
    word = "recovery.log_memory=0" if config.recovery.name == "auto" else "recovery=none"
    (command,) = re.findall(r"checkfree (train .*) out=NEW$", told)
    assert word in command
    assert main([*shlex.split(command), f"out={tmp_path}/new", "--quiet"]) == 0
    began = checkfree.read(tmp_path / "new")[0]
    assert began["init"]["iteration"] == 4


def test_of_states_that_are_too_large_there_are_fewer_elsewhere(
    cut: tuple[Path, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = cut
    has(monkeypatch, 1 << 10)
    with pytest.raises(BadInput, match=r"available: spread .* init=\S+ batch=… out=NEW$"):
        checkfree.resume(run)
    with pytest.raises(BadInput, match=r"available: verify it on a machine that has more$"):
        checkfree.verify(run)
    with pytest.raises(BadInput, match=r"available: branch it on a machine that has more$"):
        checkfree.branch(run, at=2, stages=[2], rules=["copy"])


def test_verify_keeps_no_logs(cut: tuple[Path, Config], monkeypatch: pytest.MonkeyPatch) -> None:
    run, config = cut
    has(monkeypatch, least_bytes(without_logs(config)))
    assert checkfree.verify(run).difference == ""


def test_branches_look_at_memory_and_disk_before_they_train(
    cut: tuple[Path, Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each rule, and of the run itself, whose place stands in its configuration."""
    run, config = cut
    asked: dict[str, Any] = {"at": 4, "stages": [2], "gaps": [0, 2]}
    gone = f"replay(wave_lag=1,log_path={tmp_path}/gone)"
    with pytest.raises(BadInput, match=r"^--rules replay\(.*gone: No such file or directory"):
        checkfree.branch(run, rules=["copy", gone], **asked)
    with monkeypatch.context() as patch:
        large = least_bytes(config)
        has(patch, large)
        rule = f"replay(log_memory={2**50},wave_lag=1,copies=2)"
        with pytest.raises(
            BadInput, match=r"^--rules replay\(.*available: leave that rule out, or"
        ):
            checkfree.branch(run, rules=[rule], **asked)
        rules = ["replay(wave_lag=1)", "replay(wave_lag=2)"]
        with pytest.raises(BadInput, match=r"^--rules replay.*available: lower --workers, or"):
            checkfree.branch(run, rules=rules, workers=2, **asked)
    file = run / "config.yaml"
    file.write_text(file.read_text().replace("log_path: null", f"log_path: {tmp_path}/gone"))
    with pytest.raises(BadInput, match=rf"gone: No such .*: have {file} name a folder") as caught:
        checkfree.branch(run, rules=["copy"], **asked)
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("run-at-*"))
    (tmp_path / "gone").mkdir()
    assert checkfree.branch(run, rules=["copy"], **asked).branches

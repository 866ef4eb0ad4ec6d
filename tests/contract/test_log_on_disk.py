"""A run whose logs stand on a disk is the run that has them in memory, bit for bit."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch

import checkfree
from checkfree.core.errors import BadInput
from checkfree.core.records import of_kind
from checkfree.runtime.disk_log import DiskLog
from checkfree.session import session
from tests.contract.small import counting, modules, small, text, trace

LOSSES = ((2, 0), (5, 2), (5, 3), (8, 1), (9, 4))
OPTIONS: dict[str, dict[str, Any]] = {
    "as usual": {},
    "4 bits": {"wire": {"activations": "int4", "gradients": "int4"}},
    "8 bits there, 16 back": {"wire": {"activations": "int8", "gradients": "bf16"}},
    "bf16": {"precision": "bf16"},
    "two replicas": {"replicas": 2},
    "auto": {"recovery": {"name": "auto"}},
}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures take longer than the runs."""
    monkeypatch.setattr(session, "draw", lambda folder: folder)
    torch.set_num_threads(1)


def facts(run: checkfree.Run) -> list[Any]:
    """All that is recorded, but for where its logs were and how long it took."""
    timed = ("seconds", "config", "process")
    return [
        {key: value for key, value in record.items() if key not in timed}
        for record in run.records
        if record["kind"] != "process"
    ]


@pytest.mark.parametrize("name", OPTIONS)
def test_the_same_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs, added = tmp_path / "logs", []
    logs.mkdir()
    add = DiskLog.add
    monkeypatch.setattr(DiskLog, "add", lambda log, *given: added.append(log) or add(log, *given))
    shared = text(tmp_path / "text")
    lossy = {"failures": {"scenario": trace(tmp_path / "lost.json", *LOSSES)}}
    base = {"iterations": 11, "recovery": {"name": "replay", "wave_lag": 1}}

    def train(out: str, path: Path | None) -> checkfree.Run:
        where = {"recovery": {"log_path": None if path is None else str(path)}}
        return checkfree.train(small(tmp_path / out, base, shared, OPTIONS[name], lossy, where))

    memory = train("memory", None)
    assert not added
    disk = train("disk", logs)
    assert memory.status == disk.status == "done", disk.reason
    assert facts(memory) == facts(disk)
    rules = {
        seat["rule"] for r in of_kind(disk.records, "recovery") for seat in r["rebuilds"].values()
    }
    assert rules - {"replica"} == {"replay"}
    assert added and not any(log.bytes_on_disk for log in added) and not list(logs.iterdir())


def test_a_run_goes_on_with_its_logs_elsewhere(tmp_path: Path) -> None:
    """Or in memory: which it has is no part of it."""
    (tmp_path / "logs").mkdir()
    recovery = {"name": "replay", "wave_lag": 1, "log_path": str(tmp_path / "logs")}
    changes = {"iterations": 8, "recovery": recovery, "resume": {"every": 2}}
    config = small(tmp_path / "run", changes, text(tmp_path / "text"))

    def stop(record: Any) -> None:
        if record.kind == "iteration" and record.iteration == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkfree.train(config, listeners=[stop])
    shutil.rmtree(tmp_path / "logs")
    with pytest.raises(BadInput, match=r"recovery.log_path=.*logs: No such file or directory"):
        checkfree.resume(tmp_path / "run")
    resumed = checkfree.resume(tmp_path / "run", ["recovery.log_path=null"])
    assert resumed.status == "done" and len(resumed.losses) >= 8
    (tmp_path / "other").mkdir()
    assert checkfree.resume(tmp_path / "run", [f"recovery.log_path={tmp_path}/other"])


def refusal(tmp_path: Path, path: str, **more: Any) -> str:
    recovery = {"name": "replay", "log_path": path, **more}
    with pytest.raises(BadInput) as caught:
        checkfree.train(small(tmp_path / "run", text(tmp_path / "text"), {"recovery": recovery}))
    assert not (tmp_path / "run").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("gone", "No such file or directory"),
        ("file", "Not a directory"),
        ("file/below", "Not a directory"),
        ("x" * 300, "File name too long"),
        ("\0", "null"),
        ("/proc", ""),
    ],
)
def test_a_folder_that_is_none_is_refused(
    path: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    told = refusal(tmp_path, path)
    assert told.startswith("recovery.log_path=") and why in told
    assert "give a folder on a local disk, or null" in told


def test_nothing_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"recovery\.log_path is empty: expected a folder"):
        small(tmp_path, {"recovery": {"name": "replay", "log_path": ""}})


def test_a_disk_with_too_little_room_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(5 * (1 << 20)))
    told = refusal(tmp_path, str(tmp_path))
    assert "for the logs of 5 seats, 5.0 MiB free" in told and "make room" in told


def test_home_is_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    told = refusal(tmp_path, "~/gone")
    assert f"recovery.log_path={tmp_path}/gone: No such file" in told


def test_who_replays_nothing_needs_no_folder(tmp_path: Path) -> None:
    recovery = {"name": "auto", "log_memory": 0, "log_path": str(tmp_path / "gone")}
    made = small(tmp_path / "run", {"iterations": 2, "recovery": recovery}, text(tmp_path / "text"))
    assert checkfree.train(made).status == "done"


def test_modules_of_one_s_own_log_to_it_too(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    recovery = {"name": "replay", "wave_lag": 1, "log_path": str(tmp_path / "logs")}
    lost = {"failures": {"scenario": trace(tmp_path / "lost.json", *LOSSES)}}
    shared = {"iterations": 11, "recovery": recovery}

    def train(out: str, *more: Any) -> checkfree.Run:
        config = small(tmp_path / out, shared, *more)
        return checkfree.train(config, stages=modules(config), batches=counting(config))

    assert train("lossy", lost).losses == train("calm").losses
    assert not os.listdir(tmp_path / "logs")

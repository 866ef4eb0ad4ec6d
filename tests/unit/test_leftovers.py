"""Whoever belongs to a run is killed, also in the moments in which /proc does not show it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checkfree.core.errors import RunFailed
from checkfree.runtime.swarm.processes import leftovers
from checkfree.runtime.swarm.processes.workdir import Workdir

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

Start = Callable[[str], subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """A Python with an argument, which waits."""
    processes: list[subprocess.Popen[bytes]] = []

    def one(word: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "import sys; sys.stdin.read()", word]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE))
        return processes[-1]

    yield one
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def workdir(tmp_path: Path) -> Workdir:
    return Workdir.of(tmp_path / "run")


def test_leftovers_are_swept_and_nobody_else(workdir: Workdir, start: Start) -> None:
    ours = [start(str(workdir.path)), start(f"-id={workdir.path}/id/1")]
    others = [start(f"{workdir.path}2"), start(str(workdir.run))]
    assert set(workdir.processes()) == {process.pid for process in ours}
    assert workdir.kill_leftovers() == 2
    assert [process.wait() for process in ours] == [-9, -9]
    assert workdir.processes() == []
    assert [process.poll() for process in others] == [None, None]


def test_what_does_not_end_is_named(
    workdir: Workdir, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for a disk can't be killed: else we would wait for ever."""
    one = start(str(workdir.path))
    monkeypatch.setattr(leftovers.os, "kill", lambda pid, signal: None)
    monkeypatch.setattr(leftovers, "GONE_WITHIN", 0.0)
    with pytest.raises(RunFailed, match=rf"processes {one.pid} of .* were killed and do not end"):
        workdir.kill_leftovers()


def test_what_one_started_that_was_gone_when_looked_at(
    workdir: Workdir, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon of a fork that died came after the list."""
    daemon = start(f"-id={workdir.path}/id/1")
    listed, lists = leftovers._pids, iter([[2**30]])  # above any pid
    monkeypatch.setattr(leftovers, "_pids", lambda: next(lists, None) or listed())
    assert workdir.kill_leftovers() == 1
    assert daemon.wait() == -9


def test_one_between_two_programs(
    workdir: Workdir, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = start(f"-id={workdir.path}/id/1")
    told, lines = leftovers._line, iter([b"", b"", b""])

    def line(pid: int) -> bytes:
        return next(lines, told(pid)) if pid == daemon.pid else told(pid)

    monkeypatch.setattr(leftovers, "_line", line)
    assert workdir.processes() == [daemon.pid]
    assert next(lines, None) is None


def test_one_that_never_has_a_command_line_is_none(
    workdir: Workdir, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(f"-id={workdir.path}/id/1")
    monkeypatch.setattr(leftovers, "_line", lambda pid: b"")
    monkeypatch.setattr(leftovers, "STARTED_WITHIN", 0.0)
    assert workdir.kill_leftovers() == 0

"""How a run ends that no lead of it could end: a launcher with a fork server that only pretends."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkfree.cli.swarm.shared import check_daemon, see_through
from checkfree.core.errors import BadInput, RunFailed, cannot_write, with_command
from checkfree.core.records import RECORDS, ConfigRecord, IterationRecord, PlanRecord, dumps, read
from checkfree.runtime.swarm.processes.ending import write_end
from checkfree.runtime.swarm.processes.fork_server import NO_ROOM, is_full_disk
from checkfree.runtime.swarm.processes.launcher import LEADS_LOST, Launcher
from checkfree.runtime.swarm.processes.workdir import Workdir
from tests.process.command import heeding_interrupts

FORK_SERVER = """
import json, sys
def tell(**said):
    print(json.dumps(said), flush=True)
json.loads(sys.stdin.readline())
{answer}
for line in sys.stdin:
    request = json.loads(line)
    if request["life"] < {deaths}:
        tell(spawned="lead", life=request["life"], pid=0)
        tell(died="lead", life=request["life"], pid=0, code={code})
"""
READY = "tell(ready=True, seats=[], told=[])"
PLAN = PlanRecord(0, 0, 0, {"0.0": 0})
STEP = IterationRecord(4, 6, 0, 1.5, {}, {}, 1, 0, 1)


@pytest.fixture
def workdir(tmp_path: Path) -> Workdir:
    """Of a run of five iterations and seven ticks, whose last record was cut short."""
    made = Workdir.of(tmp_path / "run")
    made.run.mkdir()
    made.create()
    lines = [dumps(record) for record in (ConfigRecord({}, {}, {}, 1), PLAN, STEP)]
    (made.run / RECORDS).write_text("\n".join([*lines, lines[-1][:9]]))
    return made


def launcher(workdir: Workdir, answer: str = READY, deaths: int = 99, code: int = -9) -> Launcher:
    script = FORK_SERVER.format(answer=answer, deaths=deaths, code=code)
    return Launcher(workdir, [sys.executable, "-c", script], {"patience": 60.0})


def end(workdir: Workdir) -> tuple[Any, ...]:
    last = read(workdir.run)[-1]
    assert last["kind"] == "end"
    return last["status"], last["iteration"], last["tick"], last["reason"]


def test_interrupted_between_two_leads(workdir: Workdir) -> None:
    made = launcher(workdir, deaths=1)

    def interrupt(event: Mapping[str, Any]) -> None:
        if event["event"] == "lost":
            os.kill(os.getpid(), signal.SIGINT)

    made.told = interrupt
    with heeding_interrupts(), pytest.raises(KeyboardInterrupt):
        see_through(made, workdir)
    assert end(workdir) == ("interrupted", 5, 7, "")
    assert workdir.processes() == []


def test_one_lead_after_the_other_dies(workdir: Workdir) -> None:
    made, lost = launcher(workdir), []
    made.told = lambda event: lost.append(event["event"])
    assert "its lead died" in see_through(made, workdir)
    assert lost == ["lost"] * LEADS_LOST
    assert end(workdir)[0] == "failed"
    assert str(workdir.logs) in end(workdir)[3]


def test_a_lead_that_could_not_write_why_it_ended_has_told(workdir: Workdir) -> None:
    """Its disk was full; by now there is room for the reason."""
    made = launcher(workdir, code=1)
    full = cannot_write("x", OSError(28, "No space left on device"))
    made.reason = str(full)
    assert see_through(made, workdir) == made.reason
    assert end(workdir) == ("failed", 5, 7, made.reason)
    told = with_command(made.reason, "checkfree swarm up --resume run")
    assert told.endswith("make room, then go on: checkfree swarm up --resume run")
    assert with_command("lost", "x") == with_command("lost", "") == "lost"
    assert with_command(made.reason, "").endswith(": make room, then begin again")


def test_a_lead_that_finds_no_room_to_begin(workdir: Workdir) -> None:
    assert "No space left" in see_through(launcher(workdir, code=NO_ROOM), workdir)
    assert end(workdir)[3].endswith("make room, then go on")
    assert is_full_disk(OSError(errno.ENOSPC, "")) and not is_full_disk(OSError(1, ""))
    try:
        try:
            raise OSError(errno.ENOSPC, "")
        except OSError:
            raise RunFailed("no daemon") from None
    except RunFailed as error:
        assert is_full_disk(error)


def test_a_fork_server_that_fails(workdir: Workdir) -> None:
    with pytest.raises(BadInput, match="no such thing"):
        see_through(launcher(workdir, "tell(bad='no such thing')"), workdir)
    assert read(workdir.run)[-1]["kind"] == "iteration"
    with pytest.raises(RunFailed, match="its fork server died"):
        see_through(launcher(workdir, "sys.exit(1)"), workdir)
    assert end(workdir)[0] == "failed"


def test_an_end_is_written_once_and_only_to_a_run_that_began(workdir: Workdir) -> None:
    write_end(workdir.run / "none", "failed", "")
    assert not (workdir.run / "none").exists()
    for status in ("done", "failed"):
        write_end(workdir.run, status, "")
    assert [record["kind"] for record in read(workdir.run)][-2:] == ["iteration", "end"]
    assert end(workdir)[0] == "done"


def test_no_daemon(tmp_path: Path) -> None:
    daemon = tmp_path / "p2pd"
    with pytest.raises(BadInput, match="reinstall hivemind"):
        check_daemon(daemon)
    daemon.touch(mode=0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_NOEXEC))
        with pytest.raises(BadInput, match="mounted noexec; install checkfree on one"):
            check_daemon(daemon)
    if os.access(daemon, os.X_OK):
        pytest.skip("whoever we are may execute anything")
    with pytest.raises(BadInput, match=r"chmod \+x"):
        check_daemon(daemon)
    daemon.chmod(0o700)
    check_daemon(daemon)

"""Machines whose clocks are wrong, or jump: it does not matter to a swarm."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

if importlib.util.find_spec("hivemind") is None:
    pytest.skip("hivemind is not installed", allow_module_level=True)

from checkfree.cli import main
from checkfree.core.records import of_kind, read
from checkfree.runtime.swarm.joining.invitation import Register
from checkfree.runtime.swarm.processes.control import ask
from checkfree.runtime.swarm.processes.workdir import Workdir
from tests.chaos import SOAK
from tests.process.command import checkfree_command, last_tick, run, wait_until
from tests.process.skewed import NoSkew, Skewed, compile_skewed
from tests.process.test_swarm_stop import SMALL, Fleet, Process, ended

WORDS = ("iterations=100000", "recovery=auto", "out=run", "--wait=1", "--listen=127.0.0.1:0")
DAY = 86400


class Clocks(Fleet):
    """A fleet in which each has a clock of its own, so many seconds ahead."""

    def __init__(self, folder: Path, program: Path):
        super().__init__(folder)
        self._program = program
        self._leads: list[Process] = []

    def lead(self, *words: str) -> Process:
        self._leads.append(super().lead(*words))
        return self._leads[-1]

    def end(self) -> None:
        for lead in self._leads:
            lead.kill()
            lead.wait()
        super().end()

    def clock(self, name: str, ahead: int) -> Skewed:
        """Set from now on for the one with that name."""
        made = Skewed(self._program, self.folder / f"{name}.clock")
        made.set(ahead)
        return made

    def _start(self, name: str, *command: str) -> Process:
        clock = Skewed(self._program, self.folder / f"{name}.clock")
        return super()._start(name, *(clock.prefix if clock.file.exists() else ()), *command)

    def member(self) -> str:
        """Where somebody is called who does not lead."""
        register = Register(Workdir.of(self.run).path / "members")
        wait_until(lambda: len(register.read()) > 0, self.nodes["a"])
        return str(register.read()[-1])

    def comes_by(self, address: str, name: str) -> None:
        """A spare, which knows that address alone."""
        words = (*self.line[:2], address, *self.line[3:], "--seats=0")
        self.nodes[name] = self._start(name, *checkfree_command(*words))
        wait_until(lambda: "stands by" in self.said(name), self.nodes[name])

    def lost(self) -> list[str]:
        """Whom the run has lost, or sees as gone."""
        events = ask(Workdir.of(self.run), {"ask": "status"})["events"]
        return [f"{e['seat']}: {e['why']}" for e in events if e["event"] in ("lost", "apart")]


@pytest.fixture
def clocks(folder: Path) -> Iterator[Clocks]:
    try:
        made = Clocks(folder, compile_skewed(folder))
    except NoSkew as reason:
        pytest.skip(f"no clock to be made wrong: {reason}")
    try:
        yield made
    finally:
        made.end()


@pytest.mark.skipif(not SOAK, reason="50 seconds: CHECKFREE_SOAK=1")
def test_who_comes_by_a_member_may_have_any_clock(clocks: Clocks) -> None:
    lead = clocks.lead("small.yaml", *SMALL, *WORDS)
    clocks.join("a", "--seats=3")
    clocks.comes_to(1, lead)
    address, token = clocks.member(), clocks.line[-1]
    for ahead in (45, -DAY):
        name = f"spare {ahead}"
        clocks.clock(name, ahead)
        clocks.comes_by(address, name)
        how = "ahead of" if ahead > 0 else "behind"
        assert f"{how} the lead's, and so are the times" in clocks.said(name)
        assert clocks.said(name).count("no answer yet") == 1  # then the lead is known
    told = run(clocks.folder, "swarm", "status", address, "--token", token).stdout
    assert "iteration " in told
    assert clocks.lost() == []


@pytest.mark.skipif(not SOAK, reason="30 seconds: CHECKFREE_SOAK=1")
def test_clocks_that_are_apart_and_jump_lose_nobody(
    clocks: Clocks, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lead's, those of members, and all of them once more in the middle of the run; then the
    lead goes on where nobody has called it before."""
    clocks.clock("lead", DAY)
    clocks.clock("a", -600)
    clocks.clock("b", 45)
    lead = clocks.lead("small.yaml", *SMALL, *WORDS)
    clocks.join("a", "--seats=2")
    clocks.join("b", "--seats=1")
    clocks.comes_to(2, lead)
    assert "behind the lead's" in clocks.said("a") and "behind the lead's" in clocks.said("b")
    for name, ahead in (("lead", -DAY), ("a", 7), ("b", -45)):
        clocks.clock(name, ahead)
        clocks.comes_to(last_tick(clocks.run) + 5, lead)
    clocks.comes_by(clocks.member(), "spare")  # whose own clock is right
    assert clocks.lost() == []
    assert main(["swarm", "stop", str(clocks.run)]) == 0
    ended(lead, 0)
    stopped, line = last_tick(clocks.run), clocks.line[2]
    clocks.clock("lead", 600)
    lead = clocks.lead("--resume", "run", "--listen=127.0.0.1:0", "--wait=2")
    assert clocks.line[2] != line
    clocks.comes_to(stopped + 3, lead)  # members have found it
    assert not any(plan["rebuilds"] for plan in of_kind(read(clocks.run), "plan"))
    assert clocks.lost() == []
    assert "stopped after" in capsys.readouterr().out

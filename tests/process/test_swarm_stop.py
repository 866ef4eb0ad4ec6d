"""A swarm that is stopped, or whose nodes or lead are reclaimed all at once, and that goes on."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from checkfree.cli import main
from checkfree.core.records import of_kind, read
from checkfree.runtime.swarm.processes.control import ask
from checkfree.runtime.swarm.processes.workdir import Workdir
from tests.chaos import SOAK
from tests.process.command import (
    DEADLINE,
    checkfree_command,
    descendants,
    environment,
    last_tick,
    losses,
    opened,
    run,
    wait_until,
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hivemind") is None, reason="hivemind is not installed"
)
SMALL = ("stages=2", "microbatches=2", "validation.every=0", "resume.every=10", "failures=none")
PATIENT = ("--patience=20", "--grace=0")
"""A loaded machine stalls for a second at times: nobody is to be lost for that."""
START_AGAIN = 75
Process = subprocess.Popen[bytes]


class Fleet:
    """Lead and nodes of one machine, each with a file of what it says."""

    def __init__(self, folder: Path):
        self.folder, self.run = folder, folder / "run"
        self.files: list[IO[bytes]] = []
        self.nodes: dict[str, Process] = {}
        self.line: list[str] = []

    def lead(self, *words: str) -> Process:
        """Started, with its join line known."""
        known = self.said("lead").count("--token")
        process = self._start("lead", *checkfree_command("swarm", "lead", *words, *PATIENT))
        wait_until(lambda: self.said("lead").count("--token") > known, process)
        lines = re.findall(r"^checkfree (swarm join \S+ --token \S+)$", self.said("lead"), re.M)
        self.line = lines[-1].split()
        return process

    def join(self, name: str, *more: str) -> None:
        self.nodes[name] = self._start(name, *checkfree_command(*self.line, *more))

    def kill_nodes(self) -> None:
        for node in self.nodes.values():
            node.kill()
            node.wait()
        self.nodes.clear()

    def said(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def comes_to(self, tick: int, process: Process) -> None:
        wait_until(lambda: last_tick(self.run) >= tick, process)

    def plans(self) -> list[set[str]]:
        """Of each the rules by which somebody was given a state."""
        made = of_kind(read(self.run), "plan")
        return [{rebuilt["rule"] for rebuilt in plan["rebuilds"].values()} for plan in made]

    def seats(self) -> set[str]:
        """Of the nodes that a status tells of."""
        nodes = ask(Workdir.of(self.run), {"ask": "status"})["nodes"]
        return {seat for node in nodes for seat in node["seats"]}

    def end(self) -> None:
        self.kill_nodes()
        Workdir.of(self.run).kill_leftovers()
        for file in self.files:
            file.close()

    def _start(self, name: str, *command: str) -> Process:
        out = open(self.folder / name, "ab")  # noqa: SIM115 (closed at the end)
        self.files.append(out)
        return opened(
            command,
            cwd=self.folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )


@pytest.fixture
def fleet(folder: Path) -> Iterator[Fleet]:
    made = Fleet(folder)
    try:
        yield made
    finally:
        made.end()


def asked_from_elsewhere(fleet: Fleet, lead: Process) -> None:
    """How it goes, at the lead's address and at a member's; and whether one more could join."""
    address, token, workdir = fleet.line[2], fleet.line[-1], Workdir.of(fleet.run)
    wait_until(
        lambda: len(ask(workdir, {"ask": "status"})["busy"]) == 3, lead
    )  # once it is measured
    told = json.loads(
        run(fleet.folder, "swarm", "status", address, "--token", token, "--json").stdout
    )
    assert sorted(seat for node in told["nodes"] for seat in node["seats"]) == ["0.0", "1.0", "2.0"]
    assert set(told["seats"].values()) == {"trains"} and set(told["busy"]) == set(told["seats"])
    _, _, id, (member, *_) = told["peers"][0]
    words = ("swarm", "status", f"{member}/p2p/{id}", "--token", token)
    lines = run(fleet.folder, *words).stdout
    assert "iteration " in lines and " in attic: " in lines and "of at most 1" in lines
    can = run(fleet.folder, "doctor", "--join", address, "--token", token).stdout
    assert "its lead answers, and the data are here" in can and "reached from there" in can


def ended(process: Process, expect: int) -> None:
    assert process.wait(timeout=DEADLINE) == expect


@pytest.mark.skipif(not SOAK, reason="70 seconds: CHECKFREE_SOAK=1")
def test_a_fleet_that_is_stopped_and_reclaimed_goes_on(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is stopped and its nodes wait; all nodes are killed; a node is told of its end; the lead
    is told to go and all nodes are killed; the last node leaves before the lead is killed; the lead
    is killed for good."""
    words = ("iterations=100000", "recovery=auto(log_memory=0)", "out=run", "--wait=2")
    lead = fleet.lead("small.yaml", *SMALL, *words)
    for name in "ab":
        fleet.join(name)
    fleet.comes_to(12, lead)
    assert main(["swarm", "stop", str(fleet.run)]) == 0
    ended(lead, 0)
    stopped = len(losses(fleet.run))
    assert f"stopped after {stopped} iterations" in capsys.readouterr().out
    assert of_kind(read(fleet.run), "end")[-1]["iteration"] == stopped
    assert f"{stopped:08}" in [path.name for path in (fleet.run / "resume").iterdir()]
    assert all(node.poll() is None for node in fleet.nodes.values())
    lead = fleet.lead("--resume", "run")
    fleet.comes_to(stopped + 5, lead)
    assert not any(fleet.plans())  # nobody was given anything
    wait_until(lambda: fleet.seats() == {"0.0", "1.0", "2.0"}, lead)  # of nodes that are back
    fleet.kill_nodes()
    wait_until(lambda: "nobody has stage 0, 1, 2: it waits" in fleet.said("lead"), lead)
    tick = last_tick(fleet.run)
    fleet.join("d")
    fleet.comes_to(tick + 3, lead)
    assert fleet.plans()[-1] == {"snapshot"}
    fleet.join("e", "--seats=1", "--zone=attic", f"--notice=file:{fleet.folder / 'ends'}")
    wait_until(lambda: "takes seat" in fleet.said("e"), lead)
    fleet.comes_to(last_tick(fleet.run) + 2, lead)
    asked_from_elsewhere(fleet, lead)
    (fleet.folder / "ends").write_text("30")
    ended(fleet.nodes.pop("e"), 0)
    assert "is there: this node ends in 30 s" in fleet.said("e")
    fleet.comes_to(last_tick(fleet.run) + 2, lead)
    rules = fleet.plans()
    assert set().union(*rules[rules.index({"snapshot"}) + 1 :]) == {"handover"}
    fleet.join("g", "--seats=1")
    wait_until(lambda: "takes seat" in fleet.said("g"), lead)
    fleet.comes_to(last_tick(fleet.run) + 2, lead)
    told, before = fleet.nodes.pop("g"), len(fleet.plans())
    for pid in (told.pid, *descendants(told.pid)):  # as a service manager does by default
        os.kill(pid, signal.SIGTERM)
    ended(told, 0)
    fleet.comes_to(last_tick(fleet.run) + 2, lead)
    assert set().union(*fleet.plans()[before:]) <= {"handover", "back"}
    lead.terminate()
    ended(lead, 130)
    fleet.kill_nodes()
    tick = last_tick(fleet.run)
    lead = fleet.lead("--resume", "run")
    fleet.join("f")
    fleet.comes_to(tick + 3, lead)
    fleet.nodes["f"].terminate()
    ended(fleet.nodes.pop("f"), 0)  # all is handed on to the lead, for nobody else is there
    lead.kill()
    lead.wait()
    tick, before = last_tick(fleet.run), len(fleet.plans())
    lead = fleet.lead("--resume", "run", "--workers=1")
    fleet.join("h", "--retry=2")
    fleet.comes_to(tick + 3, lead)
    assert set().union(*fleet.plans()[before:]) == {"handover"}
    lead.kill()
    lead.wait()
    ended(fleet.nodes["h"], START_AGAIN)
    fleet.join("too late", "--retry=1")
    ended(fleet.nodes["too late"], START_AGAIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(fleet.folder)
        assert main(["verify", "run", "--quiet"]) == 0
    assert "equal bit for bit" in capsys.readouterr().out


@pytest.mark.parametrize("way", ["up", *["up --nodes=2"] * SOAK])
def test_a_last_step_that_goes_too_far(folder: Path, way: str) -> None:
    """No validation is asked for, and what is stored has a loss all the same, or is not stored."""
    for rate, code in (("1e30", 1), ("1e-3", 0)):
        words = (*SMALL, "iterations=1", "optimizer.warmup=0", f"optimizer.lr={rate}")
        out = folder / rate
        told = run(folder, "swarm", *way.split(), "small.yaml", *words, f"out={out}", expect=code)
        assert "Traceback" not in told.stderr and (out / "weights").exists() is (code == 0)
        assert told.stderr.count("is not finite: lower optimizer.lr") == code
        assert len(of_kind(read(out), "validation")) == code

"""Nodes that share a GPU: forked, led by a machine without one, killed and told to leave."""

from __future__ import annotations

import importlib.util
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from checkfree.core.records import of_kind, read
from checkfree.runtime.swarm.processes.control import ask
from checkfree.runtime.swarm.processes.workdir import Workdir
from tests.process.command import (
    checkfree_command,
    environment,
    last_tick,
    losses,
    opened,
    run,
    wait_until,
)

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("hivemind") is None, reason="hivemind is not installed"
    ),
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="torch sees no CUDA device on this machine"
    ),
]
WORDS = (
    *("small.yaml", "out=run", "iterations=100000", "stages=2", "microbatches=2", "failures=none"),
    *("devices=[cuda]", "validation.every=0", "recovery=checkfree", "optimizer.eps=1e-6"),
)


class Members:
    """A lead that sees no GPU, and nodes that do."""

    def __init__(self, folder: Path):
        self.folder, self.started = folder, list[subprocess.Popen[str]]()
        blind = {"CUDA_VISIBLE_DEVICES": ""}
        self.lead = self._start("lead", "swarm", "lead", *WORDS, "--patience=20", **blind)
        wait_until(lambda: "--token" in self.said("lead"), self.lead)
        line = re.findall(r"^checkfree (swarm join \S+ --token \S+)$", self.said("lead"), re.M)[-1]
        self.line = line.split()

    def join(self, name: str, *more: str) -> subprocess.Popen[str]:
        return self._start(name, *self.line, f"--host={name}", *more)

    def _start(self, name: str, *words: str, **more: str) -> subprocess.Popen[str]:
        with open(self.folder / name, "ab") as log:
            process = opened(
                checkfree_command(*words),
                cwd=self.folder,
                env={**environment(), **more},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def said(self, name: str) -> str:
        return (self.folder / name).read_text()

    def nodes(self) -> dict[str, dict[str, Any]]:
        """By name."""
        status = ask(Workdir.of(self.folder / "run"), {"ask": "status"})
        return {node["host"]: node for node in status["nodes"]}

    def seats(self, name: str) -> list[str]:
        """That a node has; none, if it is not there."""
        return sorted(self.nodes().get(name, {}).get("seats", ()))

    def goes_on(self, ticks: int = 3) -> None:
        goal = last_tick(self.folder / "run") + ticks
        wait_until(lambda: last_tick(self.folder / "run") >= goal, self.lead)


@pytest.fixture
def members(folder: Path) -> Iterator[Members]:
    made = Members(folder)
    try:
        yield made
    finally:
        for process in made.started:
            process.kill()
            process.wait()
        Workdir.of(folder / "run").kill_leftovers()
        for name in ("lead", "gpu", "other", "cpu"):
            if (folder / name).exists():
                print(name, *made.said(name).splitlines()[-20:], sep="\n  ")


def test_seats_on_a_gpu_change_hands_with_their_states(members: Members) -> None:
    """Three of them in forks of one process, which therefore has no CUDA context of its own; one
    node computes on its processor, and what it takes over and hands on is exact."""
    gpu = members.join("gpu", "--seats=3")
    wait_until(lambda: last_tick(members.folder / "run") >= 3, members.lead)
    assert members.seats("gpu") == ["0.0", "1.0", "2.0"]
    cpu = members.join("cpu", "--seats=3", "--device=cpu")
    wait_until(lambda: bool(members.seats("cpu")), members.lead)
    members.goes_on()
    gpu.send_signal(signal.SIGTERM)
    wait_until(lambda: gpu.poll() is not None, members.lead)
    assert gpu.returncode == 0
    members.goes_on()
    other = members.join("other", "--seats=2", "--device=cuda:0")
    wait_until(lambda: bool(members.seats("other")), members.lead)
    members.goes_on()
    run(members.folder, "swarm", "stop", "run", "--all")
    for process in (members.lead, cpu, other):
        process.wait(120)
    plans = of_kind(read(members.folder / "run"), "plan")
    assert {made["rule"] for plan in plans for made in plan["rebuilds"].values()} == {"handover"}
    made = losses(members.folder / "run")
    words = [word.replace("100000", str(len(made))) for word in WORDS]
    run(members.folder, "train", *words, "devices=[cpu]", "out=alone", "--quiet")
    assert made == pytest.approx(losses(members.folder / "alone"), rel=1e-4)


def test_a_node_with_a_gpu_is_killed(members: Members) -> None:
    """Its stages are rebuilt on the other; a node takes one seat of a GPU unless it says more."""
    gpu, other = members.join("gpu", "--seats=2"), members.join("other", "--seats=3")
    wait_until(lambda: last_tick(members.folder / "run") >= 3, members.lead)
    gpu.kill()
    wait_until(lambda: bool(of_kind(read(members.folder / "run"), "failure")), members.lead)
    members.goes_on()
    one = members.join("cpu")  # it says nothing, and has one
    wait_until(lambda: members.nodes().get("cpu", {}).get("room") == 1, members.lead)
    run(members.folder, "swarm", "stop", "run", "--all")
    for process in (members.lead, other, one):
        process.wait(120)
    made = list(losses(members.folder / "run").values())
    assert all(loss < 10 for loss in made)

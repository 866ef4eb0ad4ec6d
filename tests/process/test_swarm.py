"""Real processes, real kills: the same numbers as in one process, and nothing left behind."""

from __future__ import annotations

import importlib.util
import json
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import checkfree
from checkfree.cli import main
from checkfree.config.load import load
from checkfree.core.records import of_kind, read
from checkfree.runtime.swarm.processes.control import ask
from checkfree.runtime.swarm.processes.sockets import _short
from checkfree.runtime.swarm.processes.workdir import SOCKETS, Workdir
from tests.chaos import SOAK
from tests.process.command import (
    checkfree_command,
    end_of,
    finished,
    last_tick,
    losses,
    numbers,
    only_line,
    run,
    start,
    wait_until,
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hivemind") is None, reason="hivemind is not installed"
)

PATIENT = "--patience=60"
"""A loaded machine stalls for a second at times: nobody is to be lost for that."""
SLOWLY = "--link=latency=20ms"
"""For runs that are only there to be disturbed: whatever they train meanwhile proves nothing."""
PLUS = ("failures=losses.json", "recovery=checkfree_plus")
LADDER = ("failures=losses.json", "recovery=auto(shadow_every=6,fit_steps=8)")
FEW_BITS = (
    "wire.activations=int8",
    "wire.gradients=fp16",
    "wire.feedback=true",
    "wire.links=[1.0>2.0=int4,2.0>1.0=int4]",
)
STARTED: list[subprocess.Popen[str]] = []
KILLED: dict[str, int] = {}
"""Of each seat the life that a test has killed."""


@pytest.fixture
def swarm(folder: Path) -> Iterator[Path]:
    """Where commands run; whatever a failed test leaves running is gone after it."""
    yield folder
    for path in folder.glob("*/.swarm"):
        Workdir(path).kill_leftovers()
        Workdir(path).clear(keep_logs=True)
    for process in STARTED:
        process.kill()
        process.communicate()
    STARTED.clear()
    KILLED.clear()


def up(*words: str, out: str = "run", quiet: bool = True) -> list[str]:
    return ["swarm", "up", "small.yaml", f"out={out}", *words, *["--quiet"] * quiet]


def begin(folder: Path, *words: str, tick: int) -> subprocess.Popen[str]:
    """A swarm that has come to ``tick``."""
    process = start(folder, checkfree_command(*words))
    STARTED.append(process)
    wait_until(lambda: last_tick(folder / "run") >= tick, process)
    return process


def lost(folder: Path) -> set[str]:
    failures = of_kind(read(folder / "run"), "failure")
    return {seat for failure in failures for seat in failure["seats"]}


def status(folder: Path) -> dict[str, Any]:
    return ask(Workdir.of(folder / "run"), {"ask": "status"})


def in_one_process(folder: Path, *words: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        checkfree.train(load("small.yaml", ["out=one", *words]))
    return folder / "one"


def assert_nothing_left(folder: Path) -> None:
    workdir = Workdir.of(folder / "run")
    assert workdir.processes() == []
    own = workdir.path / SOCKETS
    assert not any(path.exists() for path in (own, *_short(own)))


def assert_all_marked(pid: int, workdir: Workdir) -> None:
    """Every process below ``pid`` names the run in its command line: all can be found."""
    found = {pid}
    while children := {child for child in parents() if parents().get(child) in found} - found:
        found |= children
    assert len(found) > 2 * 6  # launcher, fork server, six hosts and their daemons
    assert found - {pid} <= set(workdir.processes())


def parents() -> dict[int, int]:
    """Of every process that lives."""
    return {
        int(path.parent.name): int(path.read_text().rpartition(")")[2].split()[1])
        for path in Path("/proc").glob("[0-9]*/stat")
    }


def test_the_numbers_of_one_process(swarm: Path) -> None:
    """Edges are lost, and two at once, and all that travels does so in few bits. Whole numbers
    are compared where a launcher is killed, and undisturbed ones over slow lines."""
    words = (*PLUS, *FEW_BITS)
    ticks = [(2, 2), (5, 1), (5, 4), (8, 0)]
    entries = [{"iteration": tick, "stage": stage} for tick, stage in ticks]
    (swarm / "losses.json").write_text(json.dumps({"failures": entries}))
    run(swarm, *up("iterations=10", *words, PATIENT))
    assert numbers(swarm / "run") == numbers(in_one_process(swarm, "iterations=10", *words))
    assert end_of(swarm / "run")["status"] == "done"
    assert not (swarm / "run" / ".swarm").exists()
    assert_nothing_left(swarm)


def kill(folder: Path, process: subprocess.Popen[str], seat: str) -> None:
    """Whoever sits at the seat, as soon as there is somebody who was not killed before."""
    life = KILLED.get(seat, -1) + 1

    def killed() -> bool:
        child = status(folder)["processes"][seat]
        if child["life"] < life or not child["process"] or not child["pid"]:
            return False
        told = ask(Workdir.of(folder / "run"), {"ask": "kill", "seat": seat, "signal": "KILL"})
        KILLED[seat] = told["life"]
        return True

    wait_until(killed, process)


def trains(folder: Path, process: subprocess.Popen[str], count: int = 1) -> None:
    """Wait for so many more iterations."""
    tick = last_tick(folder / "run")
    wait_until(lambda: last_tick(folder / "run") >= tick + count, process)


def replays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["verify", "run", "--quiet"]) == 0
    assert "equal bit for bit" in capsys.readouterr().out
    ticks = [step["tick"] for step in of_kind(read(folder / "run"), "iteration")]
    assert ticks == list(range(len(ticks)))


def test_kills_from_outside_are_survived_and_replayed(
    swarm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lead is killed three times and hung once, as seats are; whoever is lost besides, on a
    machine under load, is too."""
    hang = {"iteration": 1, "stage": 3, "kind": "stop"}
    (swarm / "losses.json").write_text(json.dumps({"failures": [hang]}))
    words = ("iterations=100000", "resume.every=0", "validation.every=2", "checkpoint.every=2")
    process = begin(swarm, *up(*words, *LADDER, "--chaos", SLOWLY, quiet=False), tick=1)
    assert "3.0" in lost(swarm)
    run(swarm, "swarm", "kill", "run", "lead", "--signal=stop")
    KILLED["lead"] = 0
    trains(swarm, process)
    draw = random.Random(5)
    for victims in (("lead",), ("seat",), ("lead", "seat"), ("seat", "lead")):
        for victim in victims:
            kill(swarm, process, victim if victim == "lead" else f"{draw.randrange(5)}.0")
        trains(swarm, process, draw.randrange(1, 4))
    told = run(swarm, "swarm", "status", "run").stdout
    assert told.startswith("iteration ")
    assert all(seat in told for seat in ("lead", "0.0", "1.0", "2.0", "3.0", "4.0"))
    kept = status(swarm)["processes"]
    assert kept["lead"]["life"] >= 4
    process.send_signal(signal.SIGINT)
    told = finished(process, 130).stderr
    assert re.search(r"checkfree: \S+Z lead is lost: its process ended \(-9\)", told)
    assert re.search(r"checkfree: \S+Z 3.0 is lost: ", told)
    assert_nothing_left(swarm)
    replays(swarm, capsys)


def test_round_an_empty_seat(swarm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody is sent: the global batch stays, also under another lead, until nobody is left."""

    def members() -> Mapping[str, int]:
        return of_kind(read(swarm / "run"), "plan")[-1]["members"]

    words = ("stages=2", "replicas=2", "iterations=100000", "validation.every=3", "resume.every=0")
    more = ("--chaos", "--no-replacements", SLOWLY, PATIENT)
    process = begin(swarm, *up(*words, *more), tick=1)
    kill(swarm, process, "1.1")
    wait_until(lambda: "1.1" not in members(), process)
    trains(swarm, process)
    kill(swarm, process, "lead")
    trains(swarm, process)
    assert ask(Workdir.of(swarm / "run"), {"ask": "replace", "seat": "1.1"}) == {"asked": "1.1"}
    wait_until(lambda: members().get("1.1") == 1, process)
    trains(swarm, process)
    assert set(members().values()) == {0, 1}  # nobody else was replaced
    steps = of_kind(read(swarm / "run"), "iteration")
    assert {step["forwards"] for step in steps} == {4 * 4}  # microbatches, hops
    kill(swarm, process, "1.0")
    kill(swarm, process, "1.1")
    assert "nobody is left at stage 1" in only_line(finished(process, 1))
    assert_nothing_left(swarm)
    replays(swarm, capsys)


def test_a_killed_launcher_takes_all_with_it(
    swarm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And leaves a run that goes on as if nothing had been until something is made up for, and that
    can be replayed whole."""
    entries = [{"iteration": tick, "stage": 2 + tick % 2} for tick in (4, 12, 13, 15)]
    (swarm / "losses.json").write_text(json.dumps({"failures": entries}))
    words = ("failures=losses.json", "recovery=fit(fit_steps=4)")
    process = begin(swarm, *up(*words, PATIENT), tick=11)
    process.kill()
    finished(process, -signal.SIGKILL)
    assert "no swarm that is up" in only_line(run(swarm, "swarm", "status", "run", expect=2))
    assert_nothing_left(swarm)
    run(swarm, "swarm", "up", "--resume", "run", "--quiet", PATIENT)
    undisturbed = in_one_process(swarm, *words)
    found, expected = losses(swarm / "run"), losses(undisturbed)
    assert found.keys() == expected.keys()
    assert [found[i] for i in range(12)] == [expected[i] for i in range(12)]
    assert_nothing_left(swarm)
    replays(swarm, capsys)


@pytest.mark.skipif(not SOAK, reason="20 seconds: CHECKFREE_SOAK=1")
def test_nodes_of_one_machine(swarm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seats change hands on request, a node is drained, and the last of them is killed."""

    def hosts() -> dict[str, str]:
        return {seat: node["host"] for node in status(swarm)["nodes"] for seat in node["seats"]}

    words = ("small.yaml", "out=run", "iterations=100000", "stages=2", "microbatches=2")
    more = ("validation.every=0", "resume.every=5", "recovery=auto", "--quiet", "--chaos", PATIENT)
    process = begin(swarm, "swarm", "up", *words, *more, "--nodes=2", tick=5)
    before = hosts()
    assert set(before.values()) == {"node-0", "node-1"}
    other = {"node-0": "node-1", "node-1": "node-0"}[before["1.0"]]
    told = run(swarm, "swarm", "move", "run", "1.0", other).stdout
    assert told == f"1.0 moved from {before['1.0']} to {other}\n"
    assert hosts()["1.0"] == other
    told = run(swarm, "swarm", "move", "run", "1.0").stdout  # to wherever else it can be
    assert told == f"1.0 moved from {other} to {before['1.0']}\n"
    told = run(swarm, "swarm", "move", "run", "1.0", other).stdout  # which makes one ready first
    assert told == f"1.0 moved from {before['1.0']} to {other}\n"
    wait_until(lambda: len(status(swarm)["nodes"]) == 2, process)  # who gave it up is back, too
    assert "expected one of node-0, node-1" in only_line(
        run(swarm, "swarm", "drain", "run", "node-2", expect=2)
    )
    assert "no part" in run(swarm, "swarm", "drain", "run", "node-0").stdout
    wait_until(lambda: set(hosts().values()) == {"node-1"}, process)
    trains(swarm, process, 3)
    assert "node-1: 0.0, 1.0, 2.0 of at most 3" in run(swarm, "swarm", "status", "run").stdout
    plans = of_kind(read(swarm / "run"), "plan")
    assert {made["rule"] for plan in plans for made in plan["rebuilds"].values()} == {"handover"}
    assert plans[-1]["hosts"] == dict.fromkeys(("0.0", "1.0", "2.0"), "node-1")
    run(swarm, "swarm", "kill", "run", "worker-1")
    trains(swarm, process, 3)  # on what the launcher sends there
    assert len(of_kind(read(swarm / "run"), "plan")) > len(plans)
    run(swarm, "swarm", "stop", "run")
    told = finished(process, 0).stdout
    assert "checkfree swarm up --nodes 2 --resume run" in told
    assert_nothing_left(swarm)
    replays(swarm, capsys)


def test_strangers_and_questions(swarm: Path) -> None:
    """Rubbish is counted and dropped, what can't be is refused, and training is undisturbed."""
    words = ("iterations=100000", "resume.every=0", SLOWLY, PATIENT)
    process = begin(swarm, *up(*words), tick=1)
    assert_all_marked(process.pid, Workdir.of(swarm / "run"))
    assert "--chaos" in only_line(run(swarm, "swarm", "kill", "run", "2.0", expect=2))
    again = run(swarm, "swarm", "up", "--resume", "run", expect=2)
    assert "being trained" in only_line(again)
    script = [sys.executable, "-m", "tests.process.stranger", "run", "2.0", "2000"]
    assert finished(start(swarm, script)).stdout == "2200\n"
    kinds = {"malformed", "frame", "stranger"}
    wait_until(lambda: kinds <= status(swarm)["dropped"].keys(), process)
    tick = last_tick(swarm / "run")
    wait_until(lambda: last_tick(swarm / "run") > tick + 3, process)
    assert status(swarm)["processes"]["2.0"]["life"] == 0
    assert "dropped: " in run(swarm, "swarm", "status", "run").stdout
    process.terminate()
    finished(process, 130)
    (summed,) = of_kind(read(swarm / "run"), "ledger")
    assert kinds <= summed["dropped"].keys()
    assert lost(swarm) == set()
    assert_nothing_left(swarm)


def test_bad_input_leaves_no_folder(swarm: Path) -> None:
    assert "width" in only_line(run(swarm, *up("model.width=15"), expect=2))
    assert "missing.txt" in only_line(run(swarm, *up("data.path=missing.txt"), expect=2))
    assert not (swarm / "run").exists()

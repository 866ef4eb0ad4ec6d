"""Real processes, real kills: the same numbers as in one process, and nothing left behind."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import checkfree
from checkfree.cli import main
from checkfree.load import load
from checkfree.record import of_kind, read
from checkfree.runtime.swarm.control import ask
from checkfree.runtime.swarm.home import Home
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
STRANGER = Path(__file__).with_name("stranger.py")
PLUS = ("failures=losses.json", "recovery=checkfree_plus")
STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture
def swarm(folder: Path) -> Iterator[Path]:
    """Where commands run; whatever a failed test leaves running is gone after it."""
    yield folder
    for path in folder.glob("*/.swarm"):
        Home(path).sweep()
        Home(path).clear(keep_logs=True)
    for process in STARTED:
        process.kill()
        process.communicate()
    STARTED.clear()


def up(*words: str, out: str = "run") -> list[str]:
    return ["swarm", "up", "small.yaml", f"out={out}", *words, "--quiet"]


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
    return ask(Home.of(folder / "run"), {"ask": "status"})


def in_one_process(folder: Path, *words: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        checkfree.train(load("small.yaml", ["out=one", *words]))
    return folder / "one"


def assert_nothing_left(folder: Path) -> None:
    home = Home.of(folder / "run")
    assert home.processes() == []
    assert not home.sockets.exists()


def assert_all_marked(pid: int, home: Home) -> None:
    """Every process below ``pid`` names the run in its command line: all can be found."""
    found = {pid}
    while children := {child for child in parents() if parents().get(child) in found} - found:
        found |= children
    assert len(found) > 2 * 6  # launcher, nursery, six hosts and their daemons
    assert found - {pid} <= set(home.processes())


def parents() -> dict[int, int]:
    """Of every process that lives."""
    return {
        int(path.parent.name): int(path.read_text().rpartition(")")[2].split()[1])
        for path in Path("/proc").glob("[0-9]*/stat")
    }


@pytest.mark.parametrize("words", [(), PLUS], ids=["undisturbed", "two edges, two at once"])
def test_the_numbers_of_one_process(swarm: Path, words: tuple[str, ...]) -> None:
    ticks = [(2, 2), (5, 1), (5, 4), (8, 0)]
    entries = [{"iteration": tick, "stage": stage} for tick, stage in ticks]
    (swarm / "losses.json").write_text(json.dumps({"failures": entries}))
    run(swarm, *up("iterations=10", *words, PATIENT))
    assert numbers(swarm / "run") == numbers(in_one_process(swarm, "iterations=10", *words))
    assert end_of(swarm / "run")["status"] == "done"
    assert not (swarm / "run" / ".swarm").exists()
    assert_nothing_left(swarm)


def test_kills_from_outside_are_survived_and_replayed(
    swarm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One is killed and one is hung; whoever is lost besides, on a machine under load, is too."""
    process = begin(
        swarm, *up("iterations=100000", "validation.every=0", "resume.every=0", "--chaos"), tick=3
    )
    run(swarm, "swarm", "kill", "run", "2.0")
    wait_until(lambda: "2.0" in lost(swarm), process)
    run(swarm, "swarm", "kill", "run", "3.0", "--signal=stop")
    wait_until(lambda: "3.0" in lost(swarm), process)
    tick = last_tick(swarm / "run")
    wait_until(lambda: last_tick(swarm / "run") > tick + 3, process)
    told = run(swarm, "swarm", "status", "run").stdout
    assert told.startswith("iteration ")
    assert all(seat in told for seat in ("lead", "0.0", "1.0", "2.0", "3.0", "4.0"))
    process.send_signal(signal.SIGINT)
    finished(process, 130)
    assert_nothing_left(swarm)
    monkeypatch.chdir(swarm)
    assert main(["replay", "run", "--quiet"]) == 0
    assert "equal bit for bit" in capsys.readouterr().out


def test_a_killed_launcher_takes_all_with_it(swarm: Path, undisturbed: Path) -> None:
    """And leaves a run that goes on as if nothing had been."""
    process = begin(swarm, *up(*PLUS, PATIENT), tick=11)
    process.kill()
    finished(process, -signal.SIGKILL)
    assert "no swarm that is up" in only_line(run(swarm, "swarm", "status", "run", expect=2))
    assert_nothing_left(swarm)
    run(swarm, "swarm", "up", "--resume", "run", "--quiet", PATIENT)
    assert losses(swarm / "run") == losses(undisturbed)
    assert numbers(swarm / "run") == numbers(undisturbed)
    assert_nothing_left(swarm)


def test_strangers_and_questions(swarm: Path) -> None:
    """Rubbish is counted and dropped, what can't be is refused, and training is undisturbed."""
    process = begin(swarm, *up("iterations=100000", "resume.every=0", PATIENT), tick=1)
    assert_all_marked(process.pid, Home.of(swarm / "run"))
    assert "--chaos" in only_line(run(swarm, "swarm", "kill", "run", "2.0", expect=2))
    again = run(swarm, "swarm", "up", "--resume", "run", expect=2)
    assert "being trained" in only_line(again)
    script = [sys.executable, str(STRANGER), "run", "2.0", "60"]
    assert finished(start(swarm, script)).stdout == "66\n"
    kinds = {"malformed", "frame", "stranger"}
    wait_until(lambda: kinds <= status(swarm)["dropped"].keys(), process)
    tick = last_tick(swarm / "run")
    wait_until(lambda: last_tick(swarm / "run") > tick + 3, process)
    assert status(swarm)["processes"]["2.0"]["life"] == 0
    process.terminate()
    finished(process, 130)
    assert lost(swarm) == set()
    assert_nothing_left(swarm)


def test_bad_input_leaves_no_folder(swarm: Path) -> None:
    assert "width" in only_line(run(swarm, *up("model.width=15"), expect=2))
    assert "missing.txt" in only_line(run(swarm, *up("data.path=missing.txt"), expect=2))
    assert not (swarm / "run").exists()

"""A run that is stopped, however and whenever, and resumed is the run that was never stopped."""

from __future__ import annotations

import random
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from checkfree.core.records import of_kind, read
from checkfree.messages.control import RESUME
from checkfree.runtime.files import DiskFiles
from checkfree.runtime.store import Store
from tests.process import mortal
from tests.process.command import (
    checkfree_command,
    end_of,
    finished,
    last_tick,
    numbers,
    only_line,
    run,
    start,
    start_until,
)

EVERY = 5
PLUS = ("recovery=checkfree_plus",)
GO_ON = ("train", "--quiet", "--resume", "run")


def train(*words: str, out: str = "run") -> tuple[str, ...]:
    """The arguments of a run that suffers ``losses.json``."""
    return "train", "small.yaml", "failures=losses.json", f"out={out}", *words, "--quiet"


def assert_resumed(folder: Path, reached: int) -> None:
    """From a snapshot, and with at most as many steps repeated as one may be apart."""
    record = of_kind(read(folder), "resume")[-1]
    assert record["iteration"] > 0
    assert reached + 1 - record["tick"] <= EVERY


def assert_same(folder: Path, undisturbed: Path) -> None:
    """The same numbers, each tick once."""
    made, expected = numbers(folder), numbers(undisturbed)
    ticks = [step[0] for step in made["steps"]]
    assert ticks == list(range(len(ticks)))
    assert len(made["weights"]) == 5
    assert made == expected
    assert end_of(folder)["status"] == "done"


def kill_at(tick: int, folder: Path, *words: str) -> None:
    process = start_until(tick, folder, *words, folder="run")
    process.kill()
    finished(process, -signal.SIGKILL)


# --- SIGKILL -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("recovery=checkpoint(interval=5)", "resume.every=4"), id="checkpoint"),
        pytest.param(("recovery=redundant",), id="redundant"),
    ],
)
def test_killed(folder: Path, words: tuple[str, ...]) -> None:
    run(folder, *train(*words, out="undisturbed"))
    kill_at(random.Random(words[0]).randint(8, 20), folder, *train(*words))
    reached = last_tick(folder / "run")
    run(folder, *GO_ON)
    assert_resumed(folder / "run", reached)
    assert_same(folder / "run", folder / "undisturbed")


def test_killed_twice_and_resumed_once_too_often(folder: Path, undisturbed: Path) -> None:
    kill_at(7, folder, *train(*PLUS))
    kill_at(21, folder, *GO_ON)
    reached = last_tick(folder / "run")
    run(folder, *GO_ON)
    assert_resumed(folder / "run", reached)
    assert_same(folder / "run", undisturbed)
    run(folder, *GO_ON)
    assert_same(folder / "run", undisturbed)


def test_killed_again_and_again_while_it_saves(folder: Path, undisturbed: Path) -> None:
    draw, words, began = random.Random(4), train(*PLUS), [-1]
    while run_until_fsync(draw.randint(25, 55), folder, words) == -signal.SIGKILL:
        words = GO_ON
        began += [record["tick"] for record in of_kind(read(folder / "run"), "resume")][-1:]
    assert began == sorted(began)
    assert len(set(began)) >= 3
    assert_same(folder / "run", undisturbed)


def run_until_fsync(number: int, folder: Path, words: tuple[str, ...]) -> int:
    """The exit code of a process that dies at its fsync of that number, or ends before it."""
    command = [sys.executable, "-m", mortal.__name__, str(number), *words]
    return finished(start(folder, command), None).returncode


# --- SIGINT, SIGTERM -----------------------------------------------------------------------------


def interrupt(folder: Path, number: signal.Signals) -> str:
    """The line that a run ends with when it gets a signal at tick 12."""
    process = start_until(12, folder, *train(*PLUS), folder="run")
    process.send_signal(number)
    line = only_line(finished(process, 130))
    assert end_of(folder / "run")["status"] == "interrupted"
    return line


def test_interrupted_and_resumed_as_it_says(folder: Path, undisturbed: Path) -> None:
    _, command = interrupt(folder, signal.SIGINT).split("go on: ")
    assert shlex.split(command) == ["checkfree", "train", "--resume", "run"]
    reached = last_tick(folder / "run")
    run(folder, *shlex.split(command)[1:])
    assert_resumed(folder / "run", reached)
    assert_same(folder / "run", undisturbed)


def test_terminated(folder: Path) -> None:
    assert "go on: checkfree train --resume run" in interrupt(folder, signal.SIGTERM)


def test_a_second_process_keeps_off(folder: Path) -> None:
    process = start_until(0, folder, *train(*PLUS), folder="run")
    process.send_signal(signal.SIGSTOP)  # it holds its folder, however slow the others are
    for other, reason in ((GO_ON, "another process"), (train(*PLUS), "holds a run already")):
        assert reason in only_line(run(folder, *other, expect=2))
    process.kill()
    finished(process, -signal.SIGKILL)


# --- damage --------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    """One bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    """The second half is gone."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "flipped": ("stage-2.safetensors", flip),
    "cut": ("stage-0.safetensors", cut),
    "unreadable": ("manifest.json", cut),
}


def test_a_damaged_snapshot_is_passed_over(folder: Path, undisturbed: Path) -> None:
    kill_at(16, folder, *train(*PLUS))
    *_, older, newest = Store(DiskFiles(folder / "run")).offered(RESUME)
    copies = [folder / name for name in DAMAGES]
    for copy, (name, damage) in zip(copies, DAMAGES.values(), strict=True):
        shutil.copytree(folder / "run", copy)
        damage(copy / RESUME / f"{newest:08d}" / name)
    commands = [checkfree_command("train", "--quiet", "--resume", name) for name in DAMAGES]
    for process in [start(folder, command) for command in commands]:
        finished(process)
    for copy in copies:
        assert of_kind(read(copy), "resume")[-1]["tick"] == older
        assert_same(copy, undisturbed)

"""Readers that go away, full disks, poor terminals: no run ends by them, and codes stay right."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.process.command import (
    DEADLINE,
    checkfree_command,
    end_of,
    environment,
    heeding_interrupts,
    last_tick,
    wait_until,
)

TRAIN = ("train", "small.yaml", "out=run", "failures=losses.json", "recovery=checkfree_plus")
FULL = "standard output can't be written: No space left on device"


def shell(folder: Path, line: str, **more: str) -> subprocess.CompletedProcess[str]:
    """A line of bash, with ``checkfree`` in it as its users have it."""
    command = " ".join(checkfree_command())
    return subprocess.run(
        ["bash", "-c", f'checkfree() {{ {command} "$@"; }}\n{line}'],
        cwd=folder,
        env=environment() | more,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=DEADLINE,
    )


def test_a_reader_that_goes_away_ends_no_run(folder: Path) -> None:
    line = f"checkfree {' '.join(TRAIN)} 2>&1 | head -1; echo ${{PIPESTATUS[0]}}"
    found = shell(folder, line)
    assert found.stdout.splitlines()[-1] == "0" and found.stderr == ""
    assert (end_of(folder / "run")["status"], end_of(folder / "run")["iteration"]) == ("done", 40)
    assert (folder / "run" / "loss.png").is_file()


@pytest.mark.skipif(importlib.util.find_spec("hivemind") is None, reason="no hivemind")
def test_nor_a_swarm_s(folder: Path) -> None:
    words = " ".join(("swarm", "up", *TRAIN[1:3], "iterations=6", "--patience=60"))
    found = shell(folder, f"checkfree {words} 2>&1 | head -1; echo ${{PIPESTATUS[0]}}")
    assert found.stdout.splitlines()[-1] == "0" and found.stderr == ""
    assert end_of(folder / "run")["status"] == "done"


def test_full_outputs_change_no_code_of_what_was_done(folder: Path) -> None:
    quiet = "out=run iterations=2 --quiet"
    found = shell(folder, f"checkfree train small.yaml {quiet} > /dev/full")
    assert (found.returncode, found.stderr.count("\n")) == (0, 1) and FULL in found.stderr
    assert end_of(folder / "run")["status"] == "done"
    found = shell(folder, "checkfree verify run > /dev/full 2> /dev/full")
    assert found.returncode == 0
    found = shell(folder, "checkfree train small.yaml stages=no 2> /dev/full")
    assert (found.returncode, found.stdout) == (2, "")


def test_a_command_that_only_shows_has_failed_if_it_could_not(folder: Path) -> None:
    found = shell(folder, "checkfree failures show losses.json > /dev/full")
    assert found.returncode == 1 and FULL in found.stderr and "Traceback" not in found.stderr
    line = "checkfree failures show losses.json | head -1; echo ${PIPESTATUS[0]}"
    found = shell(folder, line)
    assert found.stdout.splitlines()[-1] == "0" and found.stderr == ""


def test_interrupted_under_tee(folder: Path) -> None:
    """Ctrl-C goes to all of the pipe, so what reads may be gone before we say our last."""
    words = (*checkfree_command(*TRAIN), "iterations=100000", "failures=none")
    line = f"set -o pipefail; {' '.join(words)} 2>&1 | tee log"
    with heeding_interrupts():
        process = subprocess.Popen(
            ["bash", "-c", line],
            cwd=folder,
            env=environment(),
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
    wait_until(lambda: last_tick(folder / "run") >= 3, process)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=DEADLINE)
    wait_until(lambda: (folder / "run" / "loss.png").is_file(), _Waits())
    assert end_of(folder / "run")["status"] == "interrupted"


class _Waits:
    """Nothing that could end too early."""

    def poll(self) -> None:
        return None


@pytest.mark.parametrize(
    ("words", "encoding"),
    [
        ("compare --help", "ascii"),
        ("doctor small.yaml", "latin-1"),
        ("failures show losses.json", "ascii"),
        ("schedule small.yaml", "ascii"),
        ("train small.yaml iterations=4 out=run failures=losses.json", "ascii"),
        ("simulate small.yaml iterations=3", "latin-1"),
    ],
)
def test_a_poor_terminal(folder: Path, words: str, encoding: str) -> None:
    more = {"PYTHONIOENCODING": encoding, "TERM": "dumb", "PYTHONUTF8": "0"}
    found = shell(folder, f"checkfree {words}", **more)
    assert found.returncode == 0, found.stderr
    assert "Traceback" not in found.stderr

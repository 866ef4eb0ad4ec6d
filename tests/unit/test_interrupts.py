"""Ctrl-C at any moment: one line, exit code 130, and never in the middle of an import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.command import environment, heeding_interrupts

SLOW = """
import os, signal, time
try:
    for _ in range({times}):
        os.kill(os.getpid(), signal.SIGINT)
    while signal.getitimer(signal.ITIMER_REAL)[0] == 0:
        pass
    end = time.monotonic() + 0.05
    while time.monotonic() < end:
        pass
except BaseException:
    print("swallowed")
"""
IMPORTS = """
from checkfree.cli.interrupts import heed_interrupts
heed_interrupts()
try:
    import slow
    print("went on")
    while True:
        pass
except KeyboardInterrupt:
    import slow
    print("interrupted")
"""
PENDING = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.{name}])
signal.raise_signal(signal.{name})
os.execv(sys.executable, [sys.executable, "-m", "checkfree", *sys.argv[1:]])
"""
EXECS = """
import os, signal, sys
from checkfree.cli import interrupts
interrupts.heed_interrupts()
interrupts._waiting.append(signal.SIGINT)
interrupts.hold_interrupts()
os.execv(sys.executable, [sys.executable, "-m", "checkfree", "--help"])
"""


def python(cwd: Path, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *words]
    with heeding_interrupts():
        return subprocess.run(
            command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=60
        )


def test_an_import_is_not_cut_short(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW.format(times=1))
    told = python(tmp_path, IMPORTS)
    assert "swallowed" not in told.stdout
    assert told.stdout.endswith("interrupted\n")
    assert (told.returncode, told.stderr) == (0, "")


def test_twice_is_at_once(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW.format(times=2))
    told = python(tmp_path, IMPORTS)
    assert (told.returncode, told.stdout) == (130, "")
    assert told.stderr == "checkfree: interrupted\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_before_anything_is_imported(tmp_path: Path, name: str) -> None:
    told = python(tmp_path, PENDING.format(name=name), "train", "demo")
    assert told.returncode == 130
    assert told.stderr == "checkfree: interrupted\n"
    assert not list(tmp_path.iterdir())


def test_while_one_program_takes_the_place_of_another(tmp_path: Path) -> None:
    told = python(tmp_path, EXECS)
    assert (told.returncode, told.stderr) == (130, "checkfree: interrupted\n")


def test_one_that_python_swallows_comes_again(tmp_path: Path) -> None:
    """As in what is called around a fork, or when something is thrown away."""
    script = """
import os, signal
from checkfree.cli.interrupts import heed_interrupts
heed_interrupts()
class Dies:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass
try:
    dies = Dies()
    del dies
    while True:
        pass
except KeyboardInterrupt:
    print("interrupted")
"""
    ended = python(tmp_path, script)
    assert (ended.stdout, ended.stderr) == ("interrupted\n", "")

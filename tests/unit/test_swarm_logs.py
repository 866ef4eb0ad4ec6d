"""What processes say, and what they must not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("hivemind", reason="hivemind is not installed")

from checkfree.cli.secrecy import without
from checkfree.runtime.swarm.processes.logs import CUT, KEPT, LARGEST, MOST, trim

TOKEN = "0123456789abcdef" * 2


def test_a_log_keeps_its_last_lines_and_who_appends_goes_on(tmp_path: Path) -> None:
    log, small = tmp_path / "2.0-17", tmp_path / "lead-3"
    small.write_text("a line\n")
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in range(LARGEST // 8 + 1):
        os.write(handle, b"%07d\n" % number)
    trim(tmp_path)
    os.write(handle, b"goes on\n")
    os.close(handle)
    lines = log.read_bytes().splitlines()
    assert log.stat().st_size <= KEPT + len(CUT) + 8
    assert lines[0] == CUT.strip()
    assert lines[-2:] == [b"%07d" % (LARGEST // 8), b"goes on"]
    assert all(len(line) == 7 for line in lines[1:])
    assert small.read_text() == "a line\n"
    trim(tmp_path / "none")


def test_the_oldest_logs_go(tmp_path: Path) -> None:
    for number in range(MOST + 3):
        (tmp_path / f"1.0-{number}").write_text("a line\n")
        os.utime(tmp_path / f"1.0-{number}", (number, number))
    trim(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"1.0-{n}" for n in range(3, MOST + 3)}


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (
            ["swarm", "join", "A", "--token", TOKEN, "--seats=1"],
            ["swarm", "join", "A", "--seats=1"],
        ),
        (["swarm", "join", f"--token={TOKEN}", "A"], ["swarm", "join", "A"]),
        (["swarm", "join", "A", f"--tok={TOKEN}"], ["swarm", "join", "A"]),
        (["swarm", "join", "A"], ["swarm", "join", "A"]),
    ],
)
def test_a_command_line_without_its_token(words: list[str], left: list[str]) -> None:
    assert without(words, TOKEN) == left
    assert without(words, None) == words


def test_ps_shows_no_token() -> None:
    """The command begins anew as the same process, and has it all the same."""
    code = (
        "import os, sys; from checkfree.cli.secrecy import hide; hide(os.environ['SAME']); "
        "said = open('/proc/self/cmdline').read(); print(os.getpid(), sys.argv, "
        "os.environ.get('CHECKFREE_TOKEN'), os.environ['SAME'] in said)"
    )
    words = [sys.executable, "-c", code, "join", "--token", TOKEN]
    env = {name: value for name, value in os.environ.items() if name != "CHECKFREE_TOKEN"}
    env["SAME"] = TOKEN
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env) as process:
        said, _ = process.communicate(timeout=120)
    assert said.strip() == f"{process.pid} ['-c', 'join'] {TOKEN} False"

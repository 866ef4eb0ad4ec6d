"""Whatever ``TMPDIR`` is: doctor finds what swarm join finds, and says it in the same words."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("hivemind", reason="hivemind is not installed")

from tests.chaos import SOAK
from tests.peers import id_of
from tests.process.command import DEADLINE, checkfree_command, environment
from tests.process.small_disk import NoMount, small_disk
from tests.unit.test_swarm_sockets import of_length

PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a name as short as can be."""
    with tempfile.TemporaryDirectory(prefix="c", dir="/tmp") as made:
        yield Path(made)


def told(tmpdir: Path, cwd: Path, *words: str) -> tuple[int, str]:
    """Exit code, and what it says. A process of its own: a Python looks at TMPDIR once."""
    made = subprocess.run(
        checkfree_command(*words),
        cwd=cwd,
        env={**environment(), "TMPDIR": str(tmpdir)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE,
    )
    return made.returncode, made.stdout


def alike(tmpdir: Path, cwd: Path) -> str:
    """What keeps a daemon from starting, as both say; "": nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    nobody = f"/ip4/127.0.0.1/tcp/{port}/p2p/{id_of('nobody')}"
    code, doctor = told(tmpdir, cwd, "doctor")
    line = next(line for line in doctor.splitlines() if "libp2p daemon" in line)
    words = ("--token", "0" * 32, "--retry", "0.1")
    joined, said = told(tmpdir, cwd, "swarm", "join", nobody, *words)
    assert "Traceback" not in doctor + said
    if line.startswith("✓"):
        assert (code, joined) == (0, 75)
        assert f"{nobody} can't be reached" in said  # its daemon runs, and has called there
        return ""
    assert (code, joined) == (2, 2)
    why = line.partition("libp2p daemon: ")[2]
    one, other = (re.sub(r"-\d+/id/\d+", "", text) for text in (f"checkfree: {why}\n", said))
    assert one == other  # but for the process
    return why


@pytest.mark.parametrize("length", [*[51] * SOAK, 121])
def test_a_long_name_does_not_matter(short: Path, length: int) -> None:
    assert alike(of_length(short, length), short) == ""


@pytest.mark.parametrize("kind", [*["missing"] * SOAK, "not writable"])
def test_one_that_is_no_good_does_not_matter(short: Path, kind: str) -> None:
    """Then Python takes another, as it does for everybody."""
    paths = {"missing": short / "none", "not writable": Path("/proc")}
    assert alike(paths[kind], short) == ""


def test_a_full_one_is_named(short: Path) -> None:
    try:
        with small_disk(short / "disk", 64 * PAGE) as disk:
            if disk.prefix:
                pytest.skip("the disk is another process's alone")
            disk.fill(PAGE)  # room for a try, and none for a key
            why = alike(disk.path, short)
            assert "No space left on device" in why and str(disk.path) in why
            assert why.endswith("make room there")
    except NoMount as reason:
        pytest.skip(f"no small disk to fill: {reason}")

"""Where a swarm's local sockets are, whatever folders are called and whatever takes no socket."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("hivemind", reason="hivemind is not installed")

from checkfree.core.errors import BadInput
from checkfree.runtime.files import temporary_folder
from checkfree.runtime.swarm.joining.joiner_workdir import joiner_workdir_for
from checkfree.runtime.swarm.joining.trial import try_daemon
from checkfree.runtime.swarm.processes import sockets
from checkfree.runtime.swarm.processes.sockets import (
    LONGEST_NAME,
    LONGEST_PATH,
    clear_sockets,
    find_sockets,
    make_sockets,
)
from checkfree.runtime.swarm.processes.workdir import Workdir


def of_length(base: Path, length: int) -> Path:
    """A folder whose path has so many bytes."""
    left = length - len(os.fsencode(base)) - 1
    assert left > 0, f"{base} is too long for that"
    path = base
    while left > 200:
        path, left = path / ("x" * 100), left - 101
    made = path / ("x" * left)
    made.mkdir(parents=True)
    assert len(os.fsencode(made)) == length
    return made


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a name as short as can be."""
    with tempfile.TemporaryDirectory(prefix="c", dir="/tmp") as made:
        yield Path(made)


@pytest.mark.parametrize("length", [*range(20, 151, 13), 51, 79, 80, 81, 82, 121, 150])
def test_a_socket_can_be_there(short: Path, length: int) -> None:
    own = of_length(short, length - 2) / "s"
    made = make_sockets(own)
    assert (made == own) == (length + 1 + len(LONGEST_NAME) <= LONGEST_PATH)
    assert made == find_sockets(own) and made.stat().st_mode & 0o77 == 0
    with socket.socket(socket.AF_UNIX) as listens:
        listens.bind(os.fsencode(made / LONGEST_NAME))
    clear_sockets(own)
    assert not made.exists() and list(own.parent.iterdir()) == []


@pytest.mark.parametrize("length", [20, 51, 62, 90, 121, 150])
def test_a_daemon_starts_wherever_temporary_files_are(
    short: Path, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A joiner has a folder there; its path is longer."""
    monkeypatch.setattr(tempfile, "tempdir", str(of_length(short, length)))
    assert "started" in try_daemon("/ip4/127.0.0.1/tcp/0")
    left = {path.name for path in Path(tempfile.gettempdir()).iterdir()}
    assert left == {f"checkfree-{os.getuid()}-joining.lock"}


def test_two_runs_have_two_folders(short: Path) -> None:
    base = of_length(short, 100)
    one, other = (base / name / "s" for name in "ab")
    for own in (one, other):
        own.parent.mkdir()
        make_sockets(own)
    assert find_sockets(one) != find_sockets(other)
    assert make_sockets(one) == find_sockets(one)  # once more, over what a killed run left
    for own in (one, other):
        clear_sockets(own)


def test_what_a_killed_joiner_left_goes_with_its_sockets(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(of_length(short, 90)))
    left = Path(tempfile.gettempdir()) / f"checkfree-{os.getuid()}-join-1"
    (left / "id").mkdir(parents=True)
    made = make_sockets(left / "s")
    assert made.is_dir() and left not in made.parents
    with joiner_workdir_for(b"") as workdir:
        assert not made.exists() and not left.exists()
        assert workdir.sockets.is_dir()
    assert not workdir.sockets.exists()


@pytest.mark.parametrize("told", [b"/", b"/home", b"checkfree-0-1", b"", b"\0", b"\xff"])
def test_a_run_from_elsewhere_has_nothing_removed(short: Path, told: bytes) -> None:
    """Its file may name any folder."""
    own = short / "run" / ".swarm" / "s"
    own.parent.mkdir(parents=True)
    own.with_name("sockets").write_bytes(told)
    assert find_sockets(own) == own
    workdir = Workdir(own.parent)
    assert workdir.control == own / "control"
    workdir.clear(keep_logs=True)
    assert not own.with_name("sockets").exists()


def test_where_no_socket_can_be_another_place_is_found(short: Path) -> None:
    """As on a file system that has none."""
    own = short / "s"
    own.write_text("no folder")
    made = make_sockets(own)
    assert made != own and made.is_dir() and find_sockets(own) == made
    clear_sockets(own)


def test_where_nothing_takes_a_socket_each_place_is_named(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "SHORT", ("/proc", str(short / "none")))
    monkeypatch.setattr(tempfile, "tempdir", "/proc/sys")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/proc")
    with pytest.raises(BadInput) as error:
        make_sockets(of_length(short, 120) / "s")
    told = str(error.value)
    assert "149 bytes are too long for a socket's path, expected 107" in told
    assert "/proc: " in told and "/proc/sys: " in told and f"{short / 'none'}: No such file" in told
    assert "set TMPDIR" in told and "\n" not in told


def test_where_no_temporary_file_can_be_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc"])
    for work in (lambda: try_daemon("/ip4/127.0.0.1/tcp/0"), lambda: temporary_folder("x")):
        with pytest.raises(BadInput, match="set TMPDIR") as error:
            work()
        assert "\n" not in str(error.value)


def test_what_is_wrong_with_listening_is_told_as_that() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"can't listen at 127.0.0.1:{port} .*already in use"):
            try_daemon(f"/ip4/127.0.0.1/tcp/{port}")
    with pytest.raises(BadInput, match=r"can't listen at 203\.0\.113\.7:0 .*cannot assign"):
        try_daemon("/ip4/203.0.113.7/tcp/0")

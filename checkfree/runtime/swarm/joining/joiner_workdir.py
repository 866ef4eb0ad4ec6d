"""Where a joiner keeps what its processes need: a workdir without a run folder, of its own pid.

What a killed joiner left is removed by the next one on the machine: its folder is locked as long
as it lives. One at a time pitches: a folder that is not locked yet must not pass for a left one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from checkfree.runtime.swarm.processes.workdir import Workdir

_NUMBERS = count()


@dataclass(frozen=True)
class JoinerWorkdir(Workdir):
    """Like a Home, with a secret that is nowhere on a disk."""

    token: bytes = b""

    def secret(self) -> bytes:
        return self.token

    def identity(self) -> Path:
        """A new one each time: a process has a new name in each of its lives."""
        return self.path / "id" / f"{os.getpid()}-{next(_NUMBERS)}"


def _prefix() -> str:
    return f"checkfree-{os.getuid()}-join-"


def joiner_path() -> Path:
    """Of this process."""
    return Path(tempfile.gettempdir()) / f"{_prefix()}{os.getpid()}"


@contextmanager
def joiner_workdir_for(token: bytes) -> Iterator[JoinerWorkdir]:
    """A workdir as long as the context lasts. Raises OSError."""
    workdir = JoinerWorkdir(joiner_path().resolve(), token)
    with _one_at_a_time():
        _clear_left()
        shutil.rmtree(workdir.path, ignore_errors=True)
        for folder in (workdir.path, workdir.path / "s", workdir.path / "id"):
            folder.mkdir(mode=0o700)
        handle = os.open(workdir.path, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield workdir
    finally:
        os.close(handle)
        shutil.rmtree(workdir.path, ignore_errors=True)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    path = Path(tempfile.gettempdir()) / f"checkfree-{os.getuid()}-joining.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _clear_left() -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{_prefix()}*"):
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                Workdir(path).kill_leftovers()
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(handle)

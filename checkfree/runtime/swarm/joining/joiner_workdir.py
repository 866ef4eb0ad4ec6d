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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from checkfree.core.errors import BadInput
from checkfree.runtime.swarm.processes.sockets import clear_sockets, make_sockets
from checkfree.runtime.swarm.processes.workdir import SOCKETS, Workdir

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

    def remove(self) -> None:
        """Nothing of it stays."""
        clear_sockets(self.path / SOCKETS)
        shutil.rmtree(self.path, ignore_errors=True)


def _prefix() -> str:
    return f"checkfree-{os.getuid()}-join-"


def joiner_path() -> Path:
    """Of this process. Raises OSError if there is no folder for temporary files."""
    return Path(tempfile.gettempdir()) / f"{_prefix()}{os.getpid()}"


@contextmanager
def joiner_workdir_for(token: bytes) -> Iterator[JoinerWorkdir]:
    """A workdir as long as the context lasts. Raises BadInput if there is no place for it."""
    with ExitStack() as stack:
        try:
            workdir = JoinerWorkdir(joiner_path().resolve(), token)
            with _one_at_a_time():
                _clear_left()
                workdir.remove()
                stack.callback(workdir.remove)
                for folder in (workdir.path, workdir.path / "id"):
                    folder.mkdir(mode=0o700)
                handle = os.open(workdir.path, os.O_RDONLY)
                stack.callback(os.close, handle)
                fcntl.flock(handle, fcntl.LOCK_EX)
            make_sockets(workdir.path / SOCKETS)
        except OSError as error:
            raise BadInput(
                f"no folder takes our temporary files ({error}): set TMPDIR to one of a local disk "
                "that has room, and that you may write to"
            ) from None
        yield workdir


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
                left = JoinerWorkdir(path)
                left.kill_leftovers()
                left.remove()
            finally:
                os.close(handle)

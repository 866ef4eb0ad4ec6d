"""Where the processes of a run keep what is theirs alone: ``RUN/.swarm``. And how to be rid of
all that a run left running, when whoever started it was killed.

Every process of a run has this folder in its command line: the launcher, the fork server and its
forks, and the libp2p daemons by their identity files. That is how they are found.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from checkfree.core.errors import BadInput
from checkfree.runtime.folder import ROSTER
from checkfree.runtime.swarm.processes import leftovers
from checkfree.runtime.swarm.processes.sockets import clear_sockets, find_sockets, make_sockets

SOCKETS = "s"


@dataclass(frozen=True)
class Workdir:
    """The paths of one run's processes."""

    path: Path

    @classmethod
    def of(cls, run: Path) -> Workdir:
        return cls(run.resolve() / ".swarm")

    @property
    def run(self) -> Path:
        return self.path.parent

    @property
    def sockets(self) -> Path:
        """Here, or where a short one had to be made."""
        return find_sockets(self.path / SOCKETS)

    @property
    def control(self) -> Path:
        """The socket that the launcher listens at."""
        return self.sockets / "control"

    @property
    def roster(self) -> Path:
        """The file of who was there, for a lead that is started again."""
        return self.run / ROSTER

    @property
    def logs(self) -> Path:
        return self.path / "log"

    def identity(self) -> Path:
        """Where this process' libp2p daemon is to have its key, new for each life."""
        return self.path / "id" / str(os.getpid())

    def secret(self) -> bytes:
        """What a run's processes know and nobody else. Raises BadInput."""
        try:
            return (self.path / "secret").read_bytes()
        except OSError as error:
            raise BadInput(
                f"{self.run} is not a swarm that is up, or not yours ({error.strerror})"
            ) from None

    def create(self, secret: bytes | None = None) -> None:
        """Make it, with a new secret if none is given; only its owner may look in. Raises BadInput
        or OSError."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        try:
            make_sockets(self.path / SOCKETS)
        except BadInput:
            with suppress(OSError):
                self.path.rmdir()  # nothing came of it
            raise
        for folder in (self.logs, self.path / "id"):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)
        handle = os.open(self.path / "secret", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with open(handle, "wb") as file:
            file.write(secret or secrets.token_bytes(32))

    def clear(self, *, keep_logs: bool) -> None:
        """Nothing runs any more: no socket, key or secret stays."""
        clear_sockets(self.path / SOCKETS)
        shutil.rmtree(self.path / "id", ignore_errors=True)
        with suppress(OSError):
            (self.path / "secret").unlink()
        if not keep_logs:
            shutil.rmtree(self.path, ignore_errors=True)

    @contextmanager
    def owned(self) -> Iterator[None]:
        """We are the launcher, and leftovers of an earlier one are swept. Raises BadInput if there
        is a living one. The run folder itself is what is locked; forks don't inherit that."""
        new = not self.run.exists()
        try:
            self.run.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.run, os.O_RDONLY)
        except OSError as error:
            raise BadInput(
                f"out={self.run} cannot be written: {error.strerror}; give another"
            ) from None
        try:
            self._lock(handle)
            self.kill_leftovers()
            yield
        finally:
            os.close(handle)
            with suppress(OSError):
                if new:
                    self.run.rmdir()  # nothing came of it

    def _lock(self, handle: int) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BadInput(f"{self.run} is being trained by a swarm: wait or stop it") from None

    @property
    def alive(self) -> bool:
        """A launcher has it."""
        try:
            handle = os.open(self.run, os.O_RDONLY)
        except OSError:
            return False
        try:
            self._lock(handle)
        except BadInput:
            return True
        finally:
            os.close(handle)
        return False

    def kill_leftovers(self) -> int:
        """SIGKILL every process that belongs to this run but us; returns their number."""
        return leftovers.kill_leftovers(self.path)

    def processes(self) -> list[int]:
        """All that belong to this run but us and those that became zombies."""
        return leftovers.processes_of(self.path)

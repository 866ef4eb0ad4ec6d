"""Forks the processes of a run. It has imported torch and hivemind, opened the data and read the
snapshot once, so a replacement is there in a fraction of a second and shares that memory.

It is single-threaded and never opens a stream: what it forks may start threads and daemons. Each
fork leads its own process group and dies with the fork server, as that does with the launcher.

It talks to the launcher in lines of JSON, on its standard input and output.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from checkfree.core.errors import cannot_write
from checkfree.runtime.parent import die_with_parent

SpawnRequest = Mapping[str, Any]
"""What a fork is to become: "seat", "life" and whatever its ``main`` understands."""

CALM_AFTER = 1.0
"""Seconds without news after which a spare is made."""

NO_ROOM = 5
"""Exit code of a fork that found the disk full: it could not even begin to log why."""

_PR_SET_NAME = 15


class Channel:
    """The two ends that tie a fork server to its launcher: lines of JSON in and out. They leave
    standard input and output, so that nothing printed by chance gets between the lines."""

    def __init__(self) -> None:
        self.inward, self.outward = os.dup(0), os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(2, 1)
        os.close(nothing)
        self._rest = b""

    def tell(self, value: Mapping[str, Any]) -> None:
        with suppress(BrokenPipeError):
            os.write(self.outward, json.dumps(value).encode() + b"\n")

    def hear(self) -> list[dict[str, Any]] | None:
        """What has come, waiting for some; None: the launcher is gone."""
        data = os.read(self.inward, 1 << 16)
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def cut(self) -> None:
        """In a fork: this is not ours."""
        os.close(self.inward)
        os.close(self.outward)


Main = Callable[[Callable[[], SpawnRequest], bool], int]
"""What a fork does: it is given a function that waits for its request, and whether it is a spare,
which should get ready before it calls that. Its return value becomes the exit code."""


@dataclass
class _Spare:
    """A fork that waits to be asked for; ``inbox`` is where it will read what it is to become."""

    pid: int
    inbox: socket.socket


class SwarmForkServer:
    """Keeps so many ``spares`` at hand."""

    def __init__(self, channel: Channel, main: Main, logs: Path, spares: int):
        self._channel, self._main, self._logs = channel, main, logs
        self._wanted = spares
        self._children: dict[int, SpawnRequest] = {}
        self._spares: list[_Spare] = []
        self._started = False

    def run(self) -> None:
        """Until the launcher is gone or lets go."""
        self._woken, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._waker)
        with selectors.DefaultSelector() as selector:
            for source in (self._channel.inward, self._woken):
                selector.register(source, selectors.EVENT_READ)
            while self._attend({key.fd for key, _ in selector.select(self._leisure())}):
                pass

    def _leisure(self) -> float | None:
        """Seconds until a spare is made; not at once: who was just spawned is in a hurry."""
        return CALM_AFTER if self._started and len(self._spares) < self._wanted else None

    def _attend(self, ready: set[int]) -> bool:
        if not ready:
            self._make_spare()
        if self._woken in ready:
            os.read(self._woken, 4096)
            self._bury()
        if self._channel.inward in ready:
            requests = self._channel.hear()
            if requests is None:
                return False
            for request in requests:
                self._spawn(request)
        return True

    def _bury(self) -> None:
        while self._children or self._spares:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # its daemon, if that outlived it
            request = self._children.pop(pid, None)
            if request is None:
                self._spares = [spare for spare in self._spares if spare.pid != pid]
                continue
            code = os.waitstatus_to_exitcode(status)
            seat, life = request["seat"], request["life"]
            self._channel.tell({"died": seat, "life": life, "pid": pid, "code": code})

    def _spawn(self, request: SpawnRequest) -> None:
        pid = self._take_spare(request) or self._fork(lambda: request, f"{request['seat']}", False)
        self._children[pid] = request
        self._started = self._started or request["life"] > 0 or request["seat"] != "lead"
        self._channel.tell({"spawned": request["seat"], "life": request["life"], "pid": pid})

    def _take_spare(self, request: SpawnRequest) -> int | None:
        if request["seat"] == "lead":
            return None  # they got ready for a worker's seat
        while self._spares:
            spare = self._spares.pop(0)
            self._children[spare.pid] = request
            with spare.inbox:
                try:
                    spare.inbox.sendall(json.dumps(request).encode() + b"\n")
                except OSError:
                    del self._children[spare.pid]  # it is dead, and nobody's child
                    continue
            return spare.pid
        return None

    def _make_spare(self) -> None:
        ours, its = socket.socketpair()
        pid = self._fork(partial(_read_request, its), "spare", True, (ours,))
        its.close()
        self._spares.append(_Spare(pid, ours))

    def _fork(
        self,
        await_request: Callable[[], SpawnRequest],
        name: str,
        spare: bool,
        private: tuple[socket.socket, ...] = (),
    ) -> int:
        """The pid of a fork, which never returns into the fork server's loop."""
        fork_server = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            self._become_own(fork_server)
            for end in (*private, *(other.inbox for other in self._spares)):
                end.close()
            call(name)
            self._write_to(f"{name}-{os.getpid()}")
            faulthandler.enable()
            code = self._main(await_request, spare)
        except BaseException as error:
            code = NO_ROOM if is_full_disk(error) else code
            traceback.print_exc()
        finally:
            with suppress(OSError):  # a full disk takes no log
                sys.stderr.flush()
            os._exit(code)

    def _become_own(self, fork_server: int) -> None:
        """The leader of a process group, with nothing of the fork server's."""
        os.setsid()
        die_with_parent(fork_server)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        for private in (self._woken, self._waker):
            os.close(private)
        self._channel.cut()

    def _write_to(self, name: str) -> None:
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(self._logs / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for target, source in enumerate((nothing, log, log)):
            os.dup2(source, target)


def is_full_disk(error: BaseException | None) -> bool:
    """That is what it came of."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def full_disk(run: Path) -> str:
    """Why a run ends whose processes find no room. One line."""
    return str(cannot_write(run, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))


def call(name: str) -> None:
    """What ``ps`` and ``top`` call this process, beside its command line."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_NAME, f"checkfree {name}".encode()[:15], 0, 0, 0)


def _read_request(inbox: socket.socket) -> SpawnRequest:
    """Waits; ends the process if the fork server is gone."""
    with inbox, inbox.makefile("rb") as lines:
        said = lines.readline()
    if not said:
        sys.exit(0)
    request: dict[str, Any] = json.loads(said)
    call(request["seat"])
    return request

"""A process that has imported all that training needs, and forks one for each run that is to be
trained: ``checkfree WORDS…``, without the seconds that importing torch takes.

It dies with the process that uses it, however that ends, and its forks die with it. They talk in
lines of JSON over a socket::

    user   > {"start": key, "words": …, "env": …, "said": file for standard error}
    user   > {"signal": number, "to": key}
    server > {"ended": key, "code": …}           as subprocess has it: -9 if it was killed
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from checkfree.runtime.parent import die_with_parent

IMPORTED = (
    *("checkfree.cli.entry", "checkfree.session.train", "checkfree.cli.display"),
    *("checkfree.report.run", "torch._dynamo"),
)
"""What a run imports sooner or later: its picture, and what torch's optimizers bring along."""

_LARGEST = 1 << 16


class ForkServer:
    """The user's side. ``env`` is laid over ours; what is read as torch is imported, such as
    ``OMP_NUM_THREADS``, has to stand there."""

    def __init__(self, env: Mapping[str, str]):
        self._socket, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(its.fileno()), str(os.getpid())],
                env={**os.environ, **env, "OPENBLAS_NUM_THREADS": "1"},  # forks of one thread
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[its.fileno()],
                start_new_session=True,  # a Ctrl-C is for us: we stop them, once
            )
        self._socket.setblocking(False)
        self._rest = b""
        self._running = set[str]()

    def start(self, key: str, words: Sequence[str], env: Mapping[str, str], said: Path) -> None:
        """Run ``checkfree WORDS``."""
        self._running.add(key)
        self._tell({"start": key, "words": [*words], "env": {**env}, "said": os.fspath(said)})

    def send_signal(self, key: str, number: int) -> None:
        """Nothing, if it has ended."""
        self._tell({"signal": number, "to": key})

    def ended(self) -> dict[str, int]:
        """The codes of those that have ended since the last call. If the server was killed, all
        have been, with it."""
        found = dict[str, int]()
        while True:
            try:
                data = self._socket.recv(_LARGEST)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                found |= dict.fromkeys(self._running - found.keys(), -signal.SIGKILL)
                break
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                told = json.loads(line)
                found[told["ended"]] = told["code"]
        self._running -= found.keys()
        return found

    @property
    def alive(self) -> bool:
        """It can start more."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it, and whatever it still runs."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _tell(self, said: Mapping[str, Any]) -> None:
        """All of it: a server that imports reads nothing yet."""
        self._socket.setblocking(True)
        try:
            with suppress(OSError):  # it is gone, which ``ended`` tells
                self._socket.sendall(json.dumps(said).encode() + b"\n")
        finally:
            self._socket.setblocking(False)


# --- the server ----------------------------------------------------------------------------------


class _Server:
    def __init__(self, user: socket.socket):
        self._user, self._rest = user, b""
        self._forks: dict[int, str] = {}

    def serve(self) -> None:
        """Until the user is gone."""
        self._woken, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._user, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._woken in ready:
                    os.read(self._woken, _LARGEST)
                    self._reap()
                if self._user in ready and not self._hear():
                    return

    def _hear(self) -> bool:
        data = self._user.recv(_LARGEST)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            match json.loads(line):
                case {"start": str(key), "words": words, "env": env, "said": said}:
                    self._fork(key, words, env, said)
                case {"signal": int(number), "to": str(key)}:
                    for pid in [pid for pid, name in self._forks.items() if name == key]:
                        os.kill(pid, number)
        return bool(data)

    def _reap(self) -> None:
        while self._forks:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            told = {"ended": self._forks.pop(pid), "code": os.waitstatus_to_exitcode(status)}
            self._user.sendall(json.dumps(told).encode() + b"\n")

    def _fork(self, key: str, words: Sequence[str], env: Mapping[str, str], said: str) -> None:
        server = os.getpid()
        pid = os.fork()
        if pid:
            self._forks[pid] = key
            return
        code: object = 0
        try:
            signal.set_wakeup_fd(-1)
            self._user.close()
            os.close(self._woken)
            os.close(self._waker)
            _become(server, words, env, said)
            runpy.run_module("checkfree", run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            with suppress(OSError, ValueError):
                sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)


def _become(server: int, words: Sequence[str], env: Mapping[str, str], said: str) -> None:
    """``checkfree WORDS``, in a session of its own."""
    os.setsid()
    die_with_parent(server)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(handle, 2)
    os.close(handle)
    os.environ.update(env)
    sys.argv = ["checkfree", *words]


def _main() -> None:
    die_with_parent(int(sys.argv[2]))
    user = socket.socket(fileno=int(sys.argv[1]))
    for name in IMPORTED:
        importlib.import_module(name)
    from checkfree.runtime.forking import keep_for_forks
    from checkfree.session.swarm.release import offered

    offered()  # read once: each run tells what code it is trained by
    keep_for_forks()
    _Server(user).serve()


if __name__ == "__main__":
    _main()

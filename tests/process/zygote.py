"""A process that has imported everything once, and forks what tests start: each is a process of its
own with its own signals, memory and exit code, without the seconds that importing torch takes.

What it forks is a child of the test's process, as if that had started it: the zygote forks twice,
and the test's process is for that moment the one to which orphans are given (Linux only; elsewhere,
or with CHECKFREE_REAL=1, everything is started the usual way). Run as a program it is the zygote::

    test     > [module and words, cwd, environment, network namespace, own session], and its
               standard streams
    zygote   > pid
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

_PR_SET_CHILD_SUBREAPER, _CLONE_NEWNET = 36, 0x40000000
IMPORTED = (
    *("checkfree.cli", "checkfree.session.train", "checkfree.session.verify"),
    *("checkfree.study.branch", "checkfree.study.compare", "checkfree.report.study.page"),
    *("checkfree.cli.display", "torch._dynamo"),
)
OPTIONAL = ("checkfree.session.swarm.member",)
"""What needs hivemind."""
FIXED = ("PYTHON", "OMP_", "MKL_", "TORCH", "LC_", "LANG")
"""Of variables in the environment those that count when a Python starts: a zygote for each set."""
LARGEST = 1 << 16
"""Bytes of a request."""


def usable() -> bool:
    """Whether commands of tests are forked."""
    return sys.platform.startswith("linux") and os.environ.get("CHECKFREE_REAL") != "1"


# --- at the test ---------------------------------------------------------------------------------


class Forked(subprocess.Popen[Any]):
    """``python -m MODULE WORDS``, as ``args`` says it, by the zygote. ``space``: a network
    namespace."""

    def __init__(self, args: Sequence[str], *, space: str = "", **options: Any):
        self._space = space
        super().__init__(args, **options)

    def _execute_child(  # type: ignore[no-untyped-def]
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo,
        creationflags, shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite,
        restore_signals, gid, gids, uid, umask, start_new_session, *rest,
    ):  # fmt: skip
        words = list(args)[list(args).index("-m") + 1 :]
        if "--token" in words:  # else it would begin anew, to show it to nobody
            at = words.index("--token")
            env = {**env, "CHECKFREE_TOKEN": words[at + 1]}
            del words[at : at + 2]
        errors = c2pwrite if errwrite == -1 else errwrite
        request = [words, os.fspath(cwd), env, self._space, bool(start_new_session)]
        fixed = {name: value for name, value in env.items() if name.startswith(FIXED)}
        self.pid = _zygote(json.dumps(fixed)).fork(request, [p2cread, c2pwrite, errors])
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]


class _Zygote:
    def __init__(self, env: dict[str, str]):
        self._ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, os.fspath(Path(__file__)), str(its.fileno())]
        self._process = subprocess.Popen(command, env=env, pass_fds=[its.fileno()])
        its.close()
        self._ours.recv(LARGEST)

    def fork(self, request: Sequence[Any], streams: Sequence[int]) -> int:
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            socket.send_fds(self._ours, [json.dumps(request).encode()], streams)
            answer = self._ours.recv(LARGEST)
        finally:
            libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        if not answer:
            raise OSError("the zygote has died")
        return int(answer)


@cache
def _zygote(fixed: str) -> _Zygote:
    others = {name: text for name, text in os.environ.items() if not name.startswith(FIXED)}
    return _Zygote({**others, **json.loads(fixed)})


# --- the zygote ----------------------------------------------------------------------------------


def _serve(line: socket.socket) -> list[str] | None:
    """Fork what is asked for; returns in each fork what it is to do, and None at the end."""
    line.send(b"ready")
    while True:
        data, streams, _, _ = socket.recv_fds(line, LARGEST, 3)
        if not data:
            return None
        words, cwd, env, space, session = json.loads(data)
        reader, writer = os.pipe()
        between = os.fork()
        if between == 0:
            pid = os.fork()
            if pid:
                os.write(writer, str(pid).encode())
                os._exit(0)
            for unneeded in (reader, writer, line.detach()):
                os.close(unneeded)
            _become(streams, cwd, env, space, session)
            return [str(word) for word in words]
        os.close(writer)
        for stream in streams:
            os.close(stream)
        os.waitpid(between, 0)  # now the fork is its parent's
        line.send(os.read(reader, 64))
        os.close(reader)


def enter(space: str) -> None:
    """Have this process, which has one thread, go on in a network namespace. Raises OSError."""
    with open(f"/var/run/netns/{space}") as there:
        if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"no network namespace {space}")


def _become(
    streams: Sequence[int], cwd: str, env: dict[str, str], space: str, session: bool
) -> None:
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
    for stream in streams:
        os.close(stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    if session:
        os.setsid()
    if space:
        enter(space)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the tests
    sys.path[0] = os.getcwd()  # not this folder
    os.environ.setdefault("HIVEMIND_LOGLEVEL", "ERROR")  # read as it is imported
    for name in IMPORTED:
        importlib.import_module(name)
    for name in OPTIONAL:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    gc.collect()
    gc.freeze()
    words = _serve(socket.socket(fileno=int(sys.argv[1])))
    if words is not None:
        module, sys.argv = words[0], words
        sys.orig_argv = [sys.executable, "-m", *words]
        sys.path[0] = os.getcwd()
        os._exit(_code(lambda: runpy.run_module(module, run_name="__main__", alter_sys=True)))


def _code(work: Callable[[], object]) -> int:
    """As Python ends, but that it doesn't take all apart that it has imported: in a fork each page
    that is touched is a copy."""
    code: object = 0
    try:
        work()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError:
        code = 120
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    return code if isinstance(code, int) else 1


if __name__ == "__main__":
    main()

"""Find and kill every process that has a folder in its command line, those too that are only
starting: /proc has moments in which a process that will live on can't be told.

- Between two programs (in ``exec``) a process has an empty command line.
- The list of processes is no snapshot: one that was listed and is gone when it is looked at may
  have started another, which came after the list.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from checkfree.core.errors import RunFailed

GONE_WITHIN = 10.0  # seconds
STARTED_WITHIN = 1.0  # seconds
LOOKS = 2
"""So many in a row have to find none: what a process started that was gone at the first look is
there to be listed at the second."""
PAUSE = 0.005  # seconds between two looks


def kill_leftovers(folder: Path) -> int:
    """SIGKILL all processes of a folder but us, until there are none; returns their number. Raises
    RunFailed if some won't end: those that wait for a disk can't be killed."""
    found = looks = 0
    end = time.monotonic() + GONE_WITHIN
    while looks < LOOKS:
        pids = processes_of(folder)
        looks = 0 if pids else looks + 1
        found = max(found, len(pids))
        for pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > end:
            told = ", ".join(map(str, pids))
            raise RunFailed(
                f"processes {told} of {folder.parent} were killed and do not end: see what they "
                "wait for (ps -o pid,stat,wchan,args), then try again"
            )
        time.sleep(PAUSE)
    return found


def processes_of(folder: Path) -> list[int]:
    """All that have the folder in their command line, but us and those that became zombies."""
    mark = os.fsencode(folder)
    return [pid for pid in _pids() if pid != os.getpid() and _marked(_words(pid), mark)]


def _marked(words: list[bytes], mark: bytes) -> bool:
    """A Python or a daemon of ours with an argument that is that folder or a file in it; whoever
    reads a log in there is none."""
    program = words[0].rpartition(b"/")[2]
    if not program.startswith((b"python", b"p2pd")):
        return False
    return any(w == mark or mark + b"/" in w + b"/" for w in words)


def _words(pid: int) -> list[bytes]:
    """The command line of a process, once it has one; ``[b""]`` if it is gone."""
    end = time.monotonic() + STARTED_WITHIN
    while not (line := _line(pid)) and _has_program(pid) and time.monotonic() < end:
        time.sleep(0)
    return line.split(b"\0")


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _has_program(pid: int) -> bool:
    """Zombies and the kernel's own have none, and another user's is none of ours."""
    try:
        os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return False
    return True

"""checkfree, killed at its Nth fsync: while it writes a snapshot or takes its records back.

Run as ``python -m tests.process.mortal N WORDS …``.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys

from checkfree.cli import main


def die_at_fsync(number: int) -> None:
    """SIGKILL this process in place of its fsync of that number, counted from 1."""
    calls, fsync = itertools.count(1), os.fsync

    def counted(handle: int) -> None:
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(handle)

    os.fsync = counted  # type: ignore[assignment]


if __name__ == "__main__":
    die_at_fsync(int(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))

"""``python -m checkfree.compare.child PARENT WORDS…`` is ``checkfree WORDS…`` in a process that
dies with the process PARENT, however that ends, so that a killed comparison leaves none behind."""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent is gone (Linux; elsewhere nothing)."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it went before we asked
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    sys.argv[:2] = []
    sys.argv.insert(0, "checkfree")
    runpy.run_module("checkfree", run_name="__main__")

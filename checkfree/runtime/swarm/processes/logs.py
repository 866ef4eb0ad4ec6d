"""The logs of a run's processes, each a file that they append to: never more than so large, nor
more than so many, however long a run lasts and whoever comes and goes."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

LARGEST, KEPT = 1 << 20, 1 << 18  # bytes
MOST = 256
"""Logs: more than there are processes of a run on one machine at once."""
TRIM_EVERY = 10.0  # seconds
CUT = b"[what was before is cut off]\n"


def trim(folder: Path) -> None:
    """Of each log that has become too large keep the last lines, of all logs those that were
    written to last. What is appended to one just then may be lost."""
    with suppress(OSError):
        logs = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in logs[:-MOST]:
            path.unlink(missing_ok=True)
        for path in logs[-MOST:]:
            with suppress(OSError):
                _trim(path)


def _trim(path: Path) -> None:
    handle = os.open(path, os.O_RDWR | os.O_APPEND)  # whoever else has it open appends, too
    try:
        size = os.fstat(handle).st_size
        if size <= LARGEST:
            return
        last = os.pread(handle, KEPT, size - KEPT)
        os.ftruncate(handle, 0)
        os.write(handle, CUT + last.partition(b"\n")[2])
    finally:
        os.close(handle)

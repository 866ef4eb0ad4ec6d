"""The records of a run as another process writes them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkfree.core.records import RECORDS


class Tail:
    """Hands each new record to ``listener``. Call it now and then.

    A resumed run takes its records back to a snapshot, in a file that replaces the one before:
    then ``restarted`` is called, and all that stands there is handed on again. Without it, and with
    ``from_end`` at the beginning, what is there already is old news.
    """

    def __init__(
        self,
        folder: Path,
        listener: Callable[[dict[str, Any]], object],
        *,
        restarted: Callable[[], object] | None = None,
        from_end: bool = False,
    ):
        self._path, self._listener, self._restarted = folder / RECORDS, listener, restarted
        self._file, self._place = self._stand() if from_end else (-1, 0)

    def __call__(self) -> None:
        file, size = self._stand()
        if self._file not in (-1, file) or size < self._place:
            self._place = size if self._restarted is None else 0
            if self._restarted is not None:
                self._restarted()
        self._file = file
        if size == self._place:
            return
        with open(self._path, "rb") as records:
            records.seek(self._place)
            *lines, _ = records.read(size - self._place).split(b"\n")
        self._place += sum(len(line) + 1 for line in lines)
        for line in lines:
            self._listener(json.loads(line))

    def _stand(self) -> tuple[int, int]:
        """The file's number, -1 if there is none, and its size in bytes."""
        try:
            found = os.stat(self._path)
        except OSError:
            return -1, 0
        return found.st_ino, found.st_size

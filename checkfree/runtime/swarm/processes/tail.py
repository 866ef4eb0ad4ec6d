"""Hands on the records of a run as they are written, from the file that another process writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from checkfree.core.records import RECORDS, Record
from checkfree.messages.recorded import read_record


class Tail:
    """Call it now and then. With ``from_end`` what is there already is old news."""

    def __init__(self, folder: Path, listener: Callable[[Record], None], from_end: bool = False):
        self._path, self._listener = folder / RECORDS, listener
        self._place = self._size() if from_end else 0

    def __call__(self) -> None:
        size = self._size()
        if size < self._place:  # taken back to a snapshot
            self._place = size
        if size == self._place:
            return
        with open(self._path, "rb") as file:
            file.seek(self._place)
            *lines, _ = file.read(size - self._place).split(b"\n")
        self._place += sum(len(line) + 1 for line in lines)
        for line in lines:
            self._listener(read_record(json.loads(line)))

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

"""How far a run is that somebody else is writing, from the end of its records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from checkfree.core.records import RECORDS


class Tail:
    """Follows the records of one run folder: each call of :meth:`update` reads what is new."""

    def __init__(self, folder: Path):
        self._path = folder / RECORDS
        self._file = -1
        self._rest = b""
        self._begin()

    def _begin(self) -> None:
        self._offset, self._rest = 0, b""
        self.iteration = 0
        """Steps committed so far."""
        self.loss: float | None = None
        self.failures = 0

    def update(self) -> None:
        """Read on. A file that was replaced, as a resumed run does, is read from its start."""
        try:
            with open(self._path, "rb") as file:
                number = _number(self._path)
                if number != self._file or self._path.stat().st_size < self._offset:
                    self._begin()
                    self._file = number
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            record: dict[str, Any] = json.loads(line)
        except ValueError:
            return
        match record.get("kind"):
            case "iteration":
                self.iteration, self.loss = record["iteration"] + 1, record["loss"]
            case "failure":
                self.failures += 1


def _number(path: Path) -> int:
    return path.stat().st_ino

"""Standard output and error as commands have them: whatever becomes of whoever reads them, no
command ends by it. What can't be shown is not shown; signs that an output lacks are replaced.

Everything that shows something writes to these: ``print``, argparse, rich. So nobody else has to
think of a reader that goes away, a full disk, or a terminal that knows ASCII alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

PLAIN = str.maketrans(
    {"…": "...", "–": "-", "—": "-", "−": "-", "×": "x", "→": "->", "✓": "ok", "✗": "no", "·": "."}
)
"""Signs that we show, as ASCII; any other becomes a question mark."""


class GuardedStream:
    """A text stream of which ``write`` and ``flush`` never raise. ``lost``: why it takes no more;
    None: it does."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.lost: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if self.lost is None:
            try:
                self._stream.write(self._writable(text))
            except (OSError, ValueError) as error:  # ValueError: it was closed
                self._give_up(error)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self.lost is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._give_up(error)

    def _writable(self, text: str) -> str:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            return text.translate(PLAIN).encode(encoding, "replace").decode(encoding)
        return text

    def _give_up(self, error: Exception) -> None:
        """What is still buffered goes nowhere, else it is tried again as the process ends."""
        self.lost = error
        with suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def guarded_streams() -> Iterator[None]:
    """As long as the context lasts, ``sys.stdout`` and ``sys.stderr`` are guarded."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:  # who was started without one has None
        out, err = (GuardedStream(stream or nowhere) for stream in before)
        sys.stdout, sys.stderr = out, err
        try:
            yield
        finally:
            if is_lost(out) and isinstance(out.lost, OSError):
                err.write(f"checkfree: standard output can't be written: {out.lost.strerror}\n")
            err.flush()
            sys.stdout, sys.stderr = before


def is_lost(stream: object) -> bool:
    """Not all that was written there has arrived, and not because its reader had enough."""
    if not isinstance(stream, GuardedStream):
        return False
    stream.flush()
    return stream.lost is not None and not isinstance(stream.lost, BrokenPipeError)

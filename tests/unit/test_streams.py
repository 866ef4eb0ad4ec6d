"""Streams that take no command down, whatever becomes of them."""

from __future__ import annotations

import errno
import io
import os
import sys

import pytest
from rich.console import Console

from checkfree.cli.streams import GuardedStream, guarded_streams, is_lost


class Broken(io.StringIO):
    """A stream that fails from a moment on."""

    def __init__(self, error: Exception, at: int = 0):
        super().__init__()
        self._error, self._left = error, at

    def write(self, text: str) -> int:
        self._left -= 1
        if self._left < 0:
            raise self._error
        return super().write(text)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("error", "lost"),
    [(BrokenPipeError(), False), (FULL, True), (ValueError("I/O operation on closed file"), True)],
)
def test_what_cant_be_shown_is_not_shown(error: Exception, lost: bool) -> None:
    stream = GuardedStream(Broken(error, at=1))
    print("one", file=stream)
    console = Console(file=stream)  # type: ignore[arg-type]
    console.print("two")
    stream.writelines(["three"])
    stream.flush()
    assert stream.getvalue() == "one"
    assert stream.lost is error and is_lost(stream) is lost
    assert not is_lost(GuardedStream(io.StringIO())) and not is_lost(sys.stdout)


def test_signs_that_an_encoding_lacks_are_replaced() -> None:
    raw = io.BytesIO()
    stream = GuardedStream(io.TextIOWrapper(raw, encoding="ascii"))
    print("3 × 4 … → – ✓ ü", file=stream)
    stream.flush()
    assert raw.getvalue() == b"3 x 4 ... -> - ok ?\n"


def test_a_full_disk_is_told_on_the_other_stream(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sys.stderr
    monkeypatch.setattr(sys, "stdout", Broken(FULL))
    with guarded_streams():
        print("something")
    assert capsys.readouterr().err == (
        "checkfree: standard output can't be written: No space left on device\n"
    )
    assert sys.stderr is before and isinstance(sys.stdout, Broken)


def test_who_has_no_streams_runs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with guarded_streams():
        print("something")
        print("else", file=sys.stderr)
        Console().print("more")

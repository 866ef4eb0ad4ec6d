"""The one guard where text and tokens are read: whatever goes wrong there is told with its file,
the place in it, and the cause, as wrong input of the user's. Nothing else is."""

from __future__ import annotations

import errno
import gzip
import importlib
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkfree.core.errors import BadInput

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_NOTHING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_GZIP = (gzip.BadGzipFile, EOFError, zlib.error)


@dataclass
class Position:
    """Where a reader is: a file, and what of it comes next, such as ``line 7``."""

    path: Path
    at: str = ""

    def __str__(self) -> str:
        return f"{self.path} {self.at}" if self.at else str(self.path)


@contextmanager
def reading(path: Path) -> Iterator[Position]:
    """Raise BadInput for any error in its body, which reads ``path`` and says at what place it is.

    In a generator it guards what the generator does, and not what is done with what it gives.
    """
    place = Position(path)
    try:
        yield place
    except BadInput:
        raise
    except Exception as error:  # whatever a library makes of damaged bytes
        raise BadInput(f"{place}: {_what_to_do(error)}") from error


def _what_to_do(error: Exception) -> str:
    cause = one_line(error)
    if isinstance(error, _GZIP):
        return f"{cause}, expected a whole gzip file; download it again"
    if isinstance(error, FileNotFoundError):
        return f"cannot be read ({cause}), it was there before; put it back, or start again"
    if isinstance(error, PermissionError):
        return f"cannot be read ({cause}); give yourself the right to, or take it out"
    return f"cannot be read ({cause}); check the disk, or get the file again"


def one_line(error: BaseException) -> str:
    """An error of a library or a system, short enough to stand in one of ours."""
    text = (isinstance(error, OSError) and error.strerror) or str(error)
    return " ".join(text.split())[:200] or type(error).__name__


def local_path(key: str, name: str) -> Path:
    """The path that a configuration gives under ``key``, with the user's home in place of ``~``.
    Raises BadInput for the home of somebody who is not there, and for what is no path at all."""
    try:
        if "\0" in name:
            raise ValueError("no path has a zero byte in it")
        return Path(name).expanduser()
    except (RuntimeError, ValueError) as error:
        raise BadInput(f"{key} {name!r}: {one_line(error)}; give the whole path") from error


def look_at(path: Path) -> os.stat_result | None:
    """What is at ``path``, links followed; None: nothing, or a link that leads nowhere. Raises
    BadInput if that can't be told."""
    with reading(path):
        try:
            return os.stat(path)
        except OSError as error:
            if error.errno in _NOTHING:
                return None
            raise


def kind_of(found: os.stat_result) -> str:
    """``a file``, ``a folder``, ``a FIFO``, …"""
    return _KINDS.get(stat.S_IFMT(found.st_mode), "a file")


def existing_file(path: Path, what: str, expected: str) -> os.stat_result:
    """The file at ``path``, which errors call ``what``. Raises BadInput, with what was
    ``expected``, if none is there."""
    found = look_at(path)
    if found is None:
        raise BadInput(f"{what}: no such file, expected {expected}")
    if not stat.S_ISREG(found.st_mode):
        raise BadInput(f"{what}: {kind_of(found)}, expected {expected}")
    return found


def optional(module: str, what: str) -> Any:
    """A module of the extra ``data``. Raises BadInput with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise BadInput(
            f"{what} needs the package {package}, which is not installed; "
            "run: pip install 'checkfree[data]'"
        ) from error

"""A folder for the local sockets of a run's processes: by these each talks to its libp2p daemon,
and to the launcher.

The kernel takes 107 bytes for the path of a socket, and some file systems have no sockets at all.
So a folder is tried with a socket in it; where the run's own is no good, a short one stands in.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from checkfree.core.errors import BadInput

LONGEST_PATH = 107
"""Bytes: ``sun_path`` of Linux without the zero at its end."""
LONGEST_NAME = "p2pclient-0123456789a.sock"
"""Of hivemind's; the eleven characters are another token each time."""
SHORT = ("/tmp", "/var/tmp", "/dev/shm")
"""Where a short folder may be, after those that the environment names."""


def make_sockets(own: Path) -> Path:
    """A new folder that nobody else may look into: ``own``, or a short one, of which a file beside
    ``own`` tells. Raises BadInput that says of each place why it can't be there, or OSError."""
    clear_sockets(own)
    refused = []
    for folder in (own, *_short(own)):
        why = _make(folder)
        if not why:
            _record(own).write_bytes(os.fsencode(folder))
            return folder
        refused.append(f"{folder.parent}: {why}")
    raise BadInput(
        f"no folder takes a local socket ({'; '.join(refused)}): set TMPDIR to a short folder of a "
        "local disk that you may write to"
    )


def find_sockets(own: Path) -> Path:
    """The folder that was made; ``own`` if none was. Nothing is believed of the file but a folder
    that we would make: a run may have come from elsewhere."""
    try:
        found = Path(os.fsdecode(_record(own).read_bytes()))
    except (OSError, ValueError):
        return own
    return found if found.is_absolute() and found.name == _short_name(own) else own


def clear_sockets(own: Path) -> None:
    """Nothing stays of it."""
    shutil.rmtree(find_sockets(own), ignore_errors=True)
    with suppress(OSError):
        _record(own).unlink()


def _record(own: Path) -> Path:
    return own.with_name("sockets")


def _short_name(own: Path) -> str:
    return f"checkfree-{os.getuid()}-{hashlib.sha256(os.fsencode(own)).hexdigest()[:16]}"


def _short(own: Path) -> Iterator[Path]:
    named = (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir())
    for base in dict.fromkeys(filter(None, (*named, *SHORT))):
        yield Path(base).absolute() / _short_name(own)


def _make(folder: Path) -> str:
    """Why there is none; "": there is one."""
    path = os.fsencode(folder / LONGEST_NAME)
    if len(path) > LONGEST_PATH:
        return f"{len(path)} bytes are too long for a socket's path, expected {LONGEST_PATH}"
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        with socket.socket(socket.AF_UNIX) as tried:
            tried.bind(path)
        os.unlink(path)
    except OSError as error:
        with suppress(OSError):
            folder.rmdir()
        return os.strerror(error.errno or 0)
    return ""

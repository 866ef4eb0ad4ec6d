"""The store's file port on a real disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from checkfree.core.errors import BadInput, cannot_write


def write_whole(path: Path, data: bytes) -> None:
    """All of it or nothing, even if the machine stops. Raises RunFailed, leaving no half a file."""
    draft = path.with_name(path.name + ".draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(draft, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        _sync_folder(path.parent)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def _sync_folder(folder: Path) -> None:
    """A name is only safe once its folder is on the disk too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def temporary_folder(prefix: str) -> TemporaryDirectory[str]:
    """A new one, where this machine has temporary files. Raises BadInput if none can be made."""
    try:
        return TemporaryDirectory(prefix=prefix)
    except OSError as error:
        raise BadInput(
            f"no folder takes temporary files ({error}): set TMPDIR to one that has room, and that "
            "you may write to"
        ) from None


class DiskFiles:
    """Files below one folder; see ``checkfree.runtime.store.Files``."""

    def __init__(self, root: Path):
        self._root = root

    def write(self, name: str, data: bytes) -> None:
        write_whole(self._root / name, data)

    def read(self, name: str, limit: int) -> bytes:
        path = self._root / name
        size = path.stat().st_size
        if size > limit:
            raise ValueError(f"{size} bytes, expected at most {limit}")
        return path.read_bytes()

    def open(self, name: str) -> BinaryIO:
        return open(self._root / name, "rb")

    def names(self, folder: str) -> list[str]:
        path = self._root / folder
        return sorted(p.name for p in path.iterdir()) if path.is_dir() else []

    def remove(self, folder: str) -> None:
        path = self._root / folder
        (path / "manifest.json").unlink(missing_ok=True)  # without it the archive is gone
        if path.is_dir():
            shutil.rmtree(path)

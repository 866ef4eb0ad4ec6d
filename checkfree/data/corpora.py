"""Text on this machine: the standard library of the running Python, and files of the user.

Both give one document per file, in the order of their relative names; a file beyond 8 MiB comes in
pieces, cut at line ends, that share its name and so its side.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from checkfree.core.errors import BadInput
from checkfree.data.documents import Corpus, Document

PIECE_BYTES = 8 * 2**20
LINE_BYTES = 4096

# Tests are repetitive and larger than all the rest (19 of 32 MB in CPython 3.11); the others are
# packaged apart by some systems or hold the paths of one machine. What stays: some 11 MB.
_STDLIB_SKIPS = frozenset(
    {"test", "tests", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages"}
)
_STDLIB_SKIPPED_FILES = ("_sysconfigdata_", "sitecustomize", "usercustomize")


@dataclass(frozen=True)
class File:
    """A file, and its name relative to the corpus: ``/`` between parts on every system."""

    name: str
    path: Path


def stdlib(root: Path | None = None) -> Corpus:
    """Source (``.py``) and prose (``.txt``) of this Python's standard library, without its tests.

    ``root``: another folder to read as one. Raises BadInput where Python came without sources.
    """
    folder = root or Path(sysconfig.get_path("stdlib"))
    files = find_files(folder, _is_library, _is_library_folder)
    if not files:
        raise BadInput(
            "data.name stdlib: this Python came without the sources of its standard library, "
            "expected .py files; use data.name text with data.path"
        )
    return Corpus(fingerprint(files), total_size(files), lambda: _read_library(files))


def text(path: str | None, share: float) -> Corpus:
    """A text file, or every text file of a folder (hidden and binary ones left out).

    A lone file has nothing to split by, so its last ``share``, from a line end on, is validation.
    Raises BadInput if the path is missing or has no text, and when read, if text is not UTF-8.
    """
    files = local_files("text", path, ())
    if files[0].path == Path(path or "").expanduser():
        return Corpus(
            fingerprint(files), total_size(files), lambda: _read_lone_file(files[0].path, share)
        )
    return Corpus(fingerprint(files), total_size(files), lambda: _read_files(files))


def local_files(kind: str, path: str | None, suffixes: tuple[str, ...]) -> list[File]:
    """The file at ``path``, or those below it that end in one of ``suffixes`` (none: all), sorted.

    Raises BadInput if there is no path, nothing there, or no such file.
    """
    if not path:
        raise BadInput(f"data.path is not set, expected a file or folder for data.name {kind}")
    root = Path(path).expanduser()
    if root.is_file():
        return [File(root.name, root)]
    if not root.is_dir():
        raise BadInput(
            f"data.path {path}: nothing there, expected a file or folder; check the path"
        )
    files = find_files(root, lambda name: not suffixes or name.endswith(suffixes))
    if not files:
        wanted = " or ".join(suffixes) or "text"
        raise BadInput(
            f"data.path {path}: no file for data.name {kind} in this folder, expected {wanted} "
            "files; check the path or data.name"
        )
    return files


def find_files(
    root: Path, wanted: Callable[[str], bool], entered: Callable[[str], bool] = lambda _: True
) -> list[File]:
    """Files of a wanted name in ``root`` and the folders below that are entered, sorted.

    Nothing hidden, and no ``__pycache__``.
    """
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [f for f in folders if f[0] != "." and f != "__pycache__" and entered(f)]
        for name in names:
            path = Path(folder, name)
            if name[0] != "." and wanted(name) and os.path.isfile(path):
                found.append(File(path.relative_to(root).as_posix(), path))
    return sorted(found, key=lambda file: file.name)


def fingerprint(files: list[File]) -> str:
    """Changes when a file is added, moved, resized or written; reads no text."""
    stats = [(file, file.path.stat()) for file in files]
    return "\n".join(
        f"{os.path.abspath(file.path)} {file.name} {stat.st_size} {stat.st_mtime_ns}"
        for file, stat in stats
    )


def total_size(files: list[File]) -> int:
    """Bytes on disk."""
    return sum(file.path.stat().st_size for file in files)


def _is_library(name: str) -> bool:
    return name.endswith((".py", ".txt")) and not name.startswith(_STDLIB_SKIPPED_FILES)


def _is_library_folder(name: str) -> bool:
    return name not in _STDLIB_SKIPS and not name.startswith("config-")


def _read_library(files: list[File]) -> Iterator[Document]:
    for file in files:
        for piece in _pieces(file.path):
            if _undecodable(piece) is None:
                yield Document(piece, file.name)


def _read_files(files: list[File]) -> Iterator[Document]:
    for file in files:
        for start, piece in enumerate(_pieces(file.path)):
            if start == 0 and b"\0" in piece[:8192]:
                break
            yield Document(_checked(piece, file.path), file.name)


def _read_lone_file(path: Path, share: float) -> Iterator[Document]:
    size = path.stat().st_size
    with path.open("rb") as file:
        middle = _cut(file, size - round(size * share))
    for piece in _pieces(path, 0, middle):
        yield Document(_checked(piece, path), validation=False)
    for piece in _pieces(path, middle):
        yield Document(_checked(piece, path), validation=True)


def _pieces(path: Path, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    with path.open("rb") as file:
        end = path.stat().st_size if end is None else end
        while start < end:
            stop = end if end - start <= PIECE_BYTES else min(end, _cut(file, start + PIECE_BYTES))
            file.seek(start)
            yield file.read(stop - start)
            start = stop


def _cut(file: BinaryIO, at: int) -> int:
    """The next line end from ``at`` on; where lines are longer than 4 KiB, the next character."""
    file.seek(at)
    ahead = file.read(LINE_BYTES)
    line = ahead.find(b"\n")
    if line >= 0:
        return at + line + 1
    return at + next((i for i, byte in enumerate(ahead) if byte & 0xC0 != 0x80), len(ahead))


def _checked(piece: bytes, path: Path) -> bytes:
    bad = _undecodable(piece)
    if bad is not None:
        raise BadInput(
            f"{path}: byte 0x{piece[bad]:02x} is not UTF-8, expected UTF-8 text; "
            "convert the file or take it out of data.path"
        )
    return piece


def _undecodable(piece: bytes) -> int | None:
    try:
        piece.decode()
    except UnicodeDecodeError as error:
        return error.start
    return None

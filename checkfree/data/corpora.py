"""Text on this machine: the standard library of the running Python, and files of the user.

Both give one document per file, in the order of their relative names; a file beyond 8 MiB comes in
pieces, cut at line ends, that share its name and so its side.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sysconfig
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from checkfree.core.errors import BadInput
from checkfree.core.text_counts import TextCounts
from checkfree.data.documents import Corpus, Document, Skipped, mend_for
from checkfree.data.reading import kind_of, local_path, look_at, reading
from checkfree.data.recognise import HEAD_BYTES, recognise, wide_encoding

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
    """A file as it was found, and its name relative to the corpus: ``/`` between parts on every
    system."""

    name: str
    path: Path
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Listing:
    """What there is of a corpus, in the order of its names, and what is left out of it."""

    files: list[File]
    skipped: tuple[Skipped, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Changes when a file is added, moved, resized or written; no text was read for it."""
        return "\n".join(
            f"{os.path.abspath(file.path)} {file.name} {file.size} {file.mtime_ns}"
            for file in self.files
        )

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.size for file in self.files)


def stdlib(root: Path | None = None) -> Corpus:
    """Source (``.py``) and prose (``.txt``) of this Python's standard library, without its tests.

    ``root``: another folder to read as one. Raises BadInput where Python came without sources.
    """
    folder = root or Path(sysconfig.get_path("stdlib"))
    found = find_files(folder, _is_library, _is_library_folder, links=False)
    if not found.files:
        raise BadInput(
            "data.name stdlib: this Python came without the sources of its standard library, "
            "expected .py files; use data.name text with data.path"
        )
    return Corpus(found.fingerprint, found.size, lambda: _read_library(found.files))


def text(path: str | None, share: float) -> Corpus:
    """A text file, or every text file of a folder (hidden and binary ones left out).

    A lone file has nothing to split by, so its last ``share``, from a line end on, is validation.
    Raises BadInput if the path is missing or has no text, and when read, if text is not UTF-8.
    """
    found, lone = local_files("text", path, ())
    identity = found.fingerprint
    if any(file.size > PIECE_BYTES for file in found.files):
        identity += "\nequal pieces of a file are kept"  # older tokens may lack them
    if lone:
        return Corpus(identity, found.size, lambda: _read_lone_file(found.files[0], share))
    return Corpus(identity, found.size, lambda: _read_files(found))


def local_files(kind: str, path: str | None, suffixes: tuple[str, ...]) -> tuple[Listing, bool]:
    """The file at ``path``, or those below it that end in one of ``suffixes`` (none: all), sorted;
    and whether it is that file alone.

    Raises BadInput if there is no path, nothing there that can be read, or no such file.
    """
    if not path:
        raise BadInput(f"data.path is not set, expected a file or folder for data.name {kind}")
    root = local_path("data.path", path)
    there = look_at(root)
    if there is None:
        what, mend = "nothing there", "check the path"
        if root.is_symlink():
            what = "a link that leads nowhere"
        elif "://" in path:
            what, mend = "an address", "download what is there, and give its path"
        raise BadInput(f"data.path {path}: {what}, expected a file or folder; {mend}")
    if stat.S_ISREG(there.st_mode):
        return Listing([File(root.name, root, there.st_size, there.st_mtime_ns)]), True
    if not stat.S_ISDIR(there.st_mode):
        raise BadInput(
            f"data.path {path}: {kind_of(there)}, expected a file or folder, which can be read "
            "more than once; copy what it gives into a file"
        )
    found = find_files(root, lambda name: not suffixes or name.endswith(suffixes))
    if not found.files:
        wanted, counts = " or ".join(suffixes) or "text", TextCounts()
        for left_out in found.skipped:
            counts.skip(left_out.reason, left_out.documents, left_out.bytes)
        raise BadInput(
            f"data.path {path}: no file for data.name {kind} in this folder, expected {wanted} "
            f"files; {mend_for(counts, 'check the path or data.name')}"
        )
    return found, False


def find_files(
    root: Path,
    wanted: Callable[[str], bool],
    entered: Callable[[str], bool] = lambda _: True,
    *,
    links: bool = True,
) -> Listing:
    """Files of a wanted name in ``root`` and the folders below that are entered, sorted.

    Nothing hidden, and no ``__pycache__``. ``links``: links to folders are followed. Each folder
    is entered once, none that ``root`` itself lies in, and each file found once, by the first of
    its names, those without a link to a folder before all others. Raises BadInput for a folder that
    can't be read.
    """
    above = set[tuple[int, int]]()
    for folder in Path(os.path.realpath(root)).parents:
        with suppress(OSError):  # then no link leads there either
            above.add(_key(os.stat(folder)))
    near, linked = deque([(root, "", False)]), deque[tuple[Path, str, bool]]()
    entries, skipped, seen = [], [], set[tuple[int, int]]()
    while near or linked:
        folder, prefix, by_link = (near or linked).popleft()
        with reading(folder):
            key = _key(os.stat(folder))
            names = [] if key in seen or key in above else sorted(os.listdir(folder))
        if key in above:
            skipped.append(Skipped("link to a folder around it"))
        seen.add(key)
        for name in names:
            if name[0] == "." or name == "__pycache__":
                skipped.append(Skipped("hidden"))
                continue
            path = folder / name
            found = look_at(path)
            if found is None:
                if not path.is_symlink():
                    raise BadInput(f"{path}: was taken away while its folder was listed; try again")
                skipped.append(Skipped("broken link"))
            elif stat.S_ISREG(found.st_mode):
                if wanted(name):
                    entries.append((by_link, f"{prefix}{name}", path, found))
                else:
                    skipped.append(Skipped("of another name", bytes=found.st_size))
            elif not stat.S_ISDIR(found.st_mode):
                skipped.append(Skipped("special"))
            elif entered(name):
                is_link = path.is_symlink()
                if links or not is_link:
                    (linked if is_link else near).append(
                        (path, f"{prefix}{name}/", by_link or is_link)
                    )
    files = dict[tuple[int, int], File]()
    for _, name, path, found in sorted(entries, key=lambda entry: entry[:2]):
        file = File(name, path, found.st_size, found.st_mtime_ns)
        if files.setdefault(_key(found), file) is not file:
            skipped.append(Skipped("the same file again"))
    return Listing(sorted(files.values(), key=lambda file: file.name), tuple(skipped))


def _key(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _is_library(name: str) -> bool:
    return name.endswith((".py", ".txt")) and not name.startswith(_STDLIB_SKIPPED_FILES)


def _is_library_folder(name: str) -> bool:
    return name not in _STDLIB_SKIPS and not name.startswith("config-")


def _read_library(files: list[File]) -> Iterator[Document | Skipped]:
    """Each text once, and no empty one: that much of it is the same in all Pythons."""
    seen = set[bytes]()
    for file in files:
        for _, piece in _pieces(file, 0, file.size):
            if _undecodable(piece) is not None:
                yield Skipped("not UTF-8", bytes=len(piece))
            elif (digest := hashlib.sha256(piece).digest()) not in seen:
                seen.add(digest)
                yield Document(piece, file.name)


def _read_files(found: Listing) -> Iterator[Document | Skipped]:
    yield from found.skipped
    for file in found.files:
        empty = True
        for start, piece in _pieces(file, 0, file.size):
            empty = False
            if start == 0 and b"\0" in piece[:8192]:
                encoding = wide_encoding(piece[:HEAD_BYTES])
                what = "binary" if encoding is None else f"{encoding[:6]} text"
                yield Skipped(what, bytes=file.size)
                break
            yield Document(_checked(piece, file.path, start), file.name, whole=file.name)
        if empty:
            yield Skipped("empty")


def _read_lone_file(file: File, share: float) -> Iterator[Document | Skipped]:
    with reading(file.path), file.path.open("rb") as opened:
        encoding = wide_encoding(opened.read(HEAD_BYTES))
        if encoding is not None:  # its ASCII would pass for UTF-8 with zeros
            opened.seek(0)
            raise _not_utf8(file.path, opened.read(HEAD_BYTES), "")
        middle = _cut(opened, file.size - round(file.size * share))
    if not file.size:
        yield Skipped("empty")
        return
    for span, validation in (((0, middle), False), ((middle, file.size), True)):
        for start, piece in _pieces(file, *span):
            text = _checked(piece, file.path, start)
            yield Document(text, validation=validation, whole="")


def _pieces(file: File, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Pieces of a part of a file as large as it was found, each after the byte it begins at."""
    with reading(file.path) as place, file.path.open("rb") as opened:
        while start < end:
            place.at = f"from byte {start} on"
            stop = end
            if end - start > PIECE_BYTES:
                stop = min(end, _cut(opened, start + PIECE_BYTES))
            opened.seek(start)
            piece = opened.read(stop - start)
            if len(piece) < stop - start:
                raise OSError(f"it ends at byte {start + len(piece)} and had {file.size} before")
            yield start, piece
            start = stop


def _cut(file: BinaryIO, at: int) -> int:
    """The next line end from ``at`` on; where lines are longer than 4 KiB, the next character."""
    file.seek(at)
    ahead = file.read(LINE_BYTES)
    line = ahead.find(b"\n")
    if line >= 0:
        return at + line + 1
    return at + next((i for i, byte in enumerate(ahead) if byte & 0xC0 != 0x80), len(ahead))


def _checked(piece: bytes, path: Path, start: int) -> bytes:
    bad = _undecodable(piece)
    if bad is not None:
        where = f"byte 0x{piece[bad]:02x} is not UTF-8 (at byte {start + bad})"
        raise _not_utf8(path, b"" if start else piece, where)
    return piece


def _not_utf8(path: Path, head: bytes, bad: str) -> BadInput:
    """The error for a file that begins so, and is no UTF-8 by a ``bad`` byte."""
    found = recognise(head)
    if found is None:
        return BadInput(
            f"{path}: {bad}, expected UTF-8 text; convert the file or take it out of data.path"
        )
    return BadInput(
        f"{path}: {found.what}, expected UTF-8 text; {found.mend}, or take it out of data.path"
    )


def _undecodable(piece: bytes) -> int | None:
    try:
        piece.decode()
    except UnicodeDecodeError as error:
        return error.start
    return None

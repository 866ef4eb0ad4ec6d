"""Tokenizes a corpus once, into two token files that any later run maps.

::

    CACHE/<key>/train.bin, validation.bin    appended to, never rewritten
                *.bin.index                  where each document ends
                *.bin.json                   the sidecars, written last: the split is complete
                progress.json                while it isn't: how much of the files counts

Every 8 MiB of text or so what was appended is synced, and then ``progress.json`` replaced. After a
kill, whatever lies past it is cut off; the text is read again from its start and compared by hash,
but only what is new is tokenized. Should the text have changed, all starts again. Processes that
want the same split wait for the one that is at it (not on Windows, which has no flock).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from checkfree.core.errors import RunFailed
from checkfree.data.documents import EMPTY_HASH, Placed
from checkfree.data.tokenizers import Tokenizer, Tokens
from checkfree.data.tokens import (
    INDEX_DTYPE,
    Sidecar,
    Split,
    TokenFile,
    index_path,
    open_tokens,
    sidecar_path,
    write_json,
    write_sidecar,
)

if sys.platform != "win32":
    import fcntl

GROUP_BYTES = 8 * 2**20
SIDES = ("train", "validation")


@dataclass(frozen=True)
class Extent:
    """How much of one side's files counts."""

    tokens: int = 0
    documents: int = 0


@dataclass(frozen=True)
class CacheProgress:
    """What has been tokenized so far, and the hash of the corpus up to there."""

    documents: int = 0
    corpus_hash: str = EMPTY_HASH
    train: Extent = Extent()
    validation: Extent = Extent()


Read = Callable[[], Iterator[Placed]]


def cache_folder(root: str, *key: object) -> Path:
    """The folder of one split: equal keys share it."""
    digest = hashlib.sha256("\n".join(map(str, key)).encode("utf-8", "surrogateescape"))
    return Path(root).expanduser() / f"tokens-{digest.hexdigest()[:24]}"


def cached_split(
    folder: Path, read: Read, tokenizer: Tokenizer, group_bytes: int = GROUP_BYTES
) -> Split:
    """The split in ``folder``, tokenized now if it isn't there, or not all of it.

    ``read`` gives the corpus from its start, each time. Raises RunFailed if the folder can't be
    written, BadInput if a complete token file does not fit its sidecar, and whatever ``read`` does.
    """
    with _writing(folder), _alone(folder):
        if not _is_complete(folder):
            _tokenize(folder, read, tokenizer, group_bytes)
    return _open(folder)


def memory_split(placed: Iterable[Placed], tokenizer: Tokenizer) -> Split:
    """The same split without a cache, for corpora of some megabytes."""
    sides: tuple[list[Tokens], list[Tokens]] = ([], [])
    corpus_hash = EMPTY_HASH
    for group in _groups(iter(placed), GROUP_BYTES):
        corpus_hash = group[-1].corpus_hash
        for document, tokens in zip(group, tokenizer.encode([d.text for d in group]), strict=True):
            sides[document.validation].append(tokens)
    empty = np.zeros(0, tokenizer.dtype)
    return Split(
        train=np.concatenate([empty, *sides[0]]),
        validation=np.concatenate([empty, *sides[1]]),
        documents=(len(sides[0]), len(sides[1])),
        vocabulary=tokenizer.vocabulary,
        content_hash=corpus_hash,
        tokenizer=tokenizer.identity,
        separator=tokenizer.separator,
    )


def _is_complete(folder: Path) -> bool:
    return not _progress_path(folder).exists() and all(
        sidecar_path(_bin(folder, side)).exists() for side in SIDES
    )


def _open(folder: Path) -> Split:
    train, validation = (open_tokens(_bin(folder, side)) for side in SIDES)
    sidecar = train.sidecar
    return Split(
        train=train.tokens,
        validation=validation.tokens,
        documents=(_count(train), _count(validation)),
        vocabulary=sidecar.vocabulary,
        content_hash=sidecar.content_hash or "",
        tokenizer=sidecar.tokenizer or "",
        separator=sidecar.separator,
    )


def _count(file: TokenFile) -> int:
    return 0 if file.ends is None else len(file.ends)


def _tokenize(folder: Path, read: Read, tokenizer: Tokenizer, group_bytes: int) -> None:
    progress, rest = _take_up(folder, read, tokenizer)
    write_json(_progress_path(folder), asdict(progress))  # before files are cut to it
    with (
        _Side(_bin(folder, "train"), progress.train, tokenizer) as train,
        _Side(_bin(folder, "validation"), progress.validation, tokenizer) as validation,
    ):
        for group in _groups(rest, group_bytes):
            encoded = tokenizer.encode([document.text for document in group])
            for document, tokens in zip(group, encoded, strict=True):
                (validation if document.validation else train).append(tokens)
            progress = CacheProgress(
                documents=progress.documents + len(group),
                corpus_hash=group[-1].corpus_hash,
                train=train.sync(),
                validation=validation.sync(),
            )
            write_json(_progress_path(folder), asdict(progress))
    _complete(folder, progress, tokenizer)


def _take_up(
    folder: Path, read: Read, tokenizer: Tokenizer
) -> tuple[CacheProgress, Iterator[Placed]]:
    """Where a killed tokenization stood, and the documents after it; else the start."""
    progress = _read_progress(folder, tokenizer)
    documents = read()
    if progress.documents:
        done = itertools.islice(documents, progress.documents - 1, progress.documents)
        last = next(done, None)
        if last is None or last.corpus_hash != progress.corpus_hash:
            return CacheProgress(), read()
    return progress, documents


def _read_progress(folder: Path, tokenizer: Tokenizer) -> CacheProgress:
    try:
        written: dict[str, Any] = json.loads(_progress_path(folder).read_bytes())
        train, validation = (Extent(**written[side]) for side in SIDES)
        progress = CacheProgress(written["documents"], written["corpus_hash"], train, validation)
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # never ours: it's replaced whole
        return CacheProgress()
    width = np.dtype(tokenizer.dtype).itemsize
    extents = zip(SIDES, (train, validation), strict=True)
    whole = all(_holds(_bin(folder, side), extent, width) for side, extent in extents)
    return progress if whole else CacheProgress()


def _holds(path: Path, extent: Extent, width: int) -> bool:
    sizes = {path: extent.tokens * width, index_path(path): extent.documents * 8}
    return all(file.exists() and file.stat().st_size >= size for file, size in sizes.items())


def _complete(folder: Path, progress: CacheProgress, tokenizer: Tokenizer) -> None:
    for side, extent in zip(SIDES, (progress.train, progress.validation), strict=True):
        sidecar = Sidecar(
            dtype=tokenizer.dtype,
            vocabulary=tokenizer.vocabulary,
            tokens=extent.tokens,
            content_hash=progress.corpus_hash,
            tokenizer=tokenizer.identity,
            separator=tokenizer.separator,
        )
        write_sidecar(_bin(folder, side), sidecar)
    _progress_path(folder).unlink(missing_ok=True)


def _groups(documents: Iterator[Placed], group_bytes: int) -> Iterator[list[Placed]]:
    group: list[Placed] = []
    size = 0
    for document in documents:
        group.append(document)
        size += len(document.text)
        if size >= group_bytes:
            yield group
            group, size = [], 0
    if group:
        yield group


class _Side:
    """Appends to a token file and its index, from the extent that counts."""

    def __init__(self, path: Path, extent: Extent, tokenizer: Tokenizer) -> None:
        self._dtype = np.dtype(tokenizer.dtype).newbyteorder("<")
        self._extent = extent
        self._tokens = path.open("ab")
        self._tokens.truncate(extent.tokens * self._dtype.itemsize)
        self._ends = index_path(path).open("ab")
        self._ends.truncate(extent.documents * 8)

    def __enter__(self) -> _Side:
        return self

    def __exit__(self, *_: object) -> None:
        self._tokens.close()
        self._ends.close()

    def append(self, tokens: Tokens) -> None:
        end = self._extent.tokens + len(tokens)
        self._tokens.write(tokens.astype(self._dtype, copy=False).tobytes())
        self._ends.write(np.array(end, INDEX_DTYPE).tobytes())
        self._extent = Extent(end, self._extent.documents + 1)

    def sync(self) -> Extent:
        """What stands on the disk from now on."""
        for file in (self._tokens, self._ends):
            file.flush()
            os.fsync(file.fileno())
        return self._extent


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise RunFailed(
            f"tokenizing into {folder} failed ({error}); free or name another disk with "
            "data.cache and start again, what is tokenized is kept"
        ) from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("ab") as file:
        if sys.platform != "win32":
            fcntl.flock(file, fcntl.LOCK_EX)  # closing the file, or dying, lets go
        yield


def _bin(folder: Path, side: str) -> Path:
    return folder / f"{side}.bin"


def _progress_path(folder: Path) -> Path:
    return folder / "progress.json"

"""Tokenizes a corpus once, into two token files that any later run maps.

::

    CACHE/<key>/train.bin, validation.bin    appended to, never rewritten
                *.bin.index                  where each document ends
                *.bin.crc32                  checksums of the tokens
                counts.json                  of the text: what was skipped, dropped, …
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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from checkfree.core.errors import BadInput, RunFailed
from checkfree.core.text_counts import TextCounts, read_counts
from checkfree.data.documents import EMPTY_HASH, Placed
from checkfree.data.reading import existing_file, local_path, look_at, one_line, reading
from checkfree.data.tokenizers import Tokenizer, Tokens
from checkfree.data.tokens import (
    INDEX_DTYPE,
    Sidecar,
    Split,
    TokenFile,
    index_path,
    open_tokens,
    sidecar_path,
    write_crc,
    write_json,
    write_sidecar,
)

if sys.platform != "win32":
    import fcntl

COUNTS = "counts.json"
COUNTS_BYTES = 2**24
GROUP_BYTES = 8 * 2**20
SIDES = ("train", "validation")


@dataclass(frozen=True)
class Extent:
    """How much of one side's files counts."""

    tokens: int = 0
    documents: int = 0


@dataclass(frozen=True)
class CacheProgress:
    """What has been tokenized so far, and the hash of the corpus up to there. ``counts`` are those
    of tokenizers alone: what is read is read again, and counted again."""

    documents: int = 0
    corpus_hash: str = EMPTY_HASH
    train: Extent = Extent()
    validation: Extent = Extent()
    counts: TextCounts = field(default_factory=TextCounts)


Read = Callable[[TextCounts], Iterator[Placed]]
"""Reads a corpus from its start, each time, into counts of its own."""


def cache_folder(root: str, *key: object) -> Path:
    """The folder of one split: equal keys share it. Raises BadInput for a ``root`` that can't be
    anywhere."""
    digest = hashlib.sha256("\n".join(map(str, key)).encode("utf-8", "surrogateescape"))
    return local_path("data.cache", root) / f"tokens-{digest.hexdigest()[:24]}"


def cached_split(
    folder: Path, read: Read, tokenizer: Tokenizer, group_bytes: int = GROUP_BYTES
) -> Split:
    """The split in ``folder``, tokenized now if it isn't there, or not all of it.

    Raises RunFailed if the folder can't be written, BadInput if a complete token file does not fit
    its sidecar or the tokenizer, or can't be read, and whatever ``read`` does.
    """
    with _alone(folder):
        with _writing(folder):
            complete = _is_complete(folder)
        if not complete:
            _tokenize(folder, read, tokenizer, group_bytes)
    return _open(folder, tokenizer)


def memory_split(read: Read, tokenizer: Tokenizer) -> Split:
    """The same split without a cache, for corpora of some megabytes."""
    sides: tuple[list[Tokens], list[Tokens]] = ([], [])
    corpus_hash, counts = EMPTY_HASH, TextCounts()
    for group in _groups(read(counts), GROUP_BYTES):
        corpus_hash = group[-1].corpus_hash
        encoded = tokenizer.encode([document.text for document in group])
        counts.add(encoded.counts)
        for document, tokens in zip(group, encoded.tokens, strict=True):
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
        counts=counts,
    )


def _is_complete(folder: Path) -> bool:
    return not _progress_path(folder).exists() and all(
        sidecar_path(_bin(folder, side)).exists() for side in SIDES
    )


def _open(folder: Path, tokenizer: Tokenizer) -> Split:
    train, validation = (_open_side(folder, side, tokenizer) for side in SIDES)
    content_hash = train.sidecar.content_hash
    if content_hash is None or content_hash != validation.sidecar.content_hash:
        raise BadInput(
            f"{sidecar_path(_bin(folder, SIDES[1]))}: content_hash is "
            f"{validation.sidecar.content_hash}, and {content_hash} beside it; delete the folder"
        )
    documents, counts = (_count(train), _count(validation)), _read_counts(folder / COUNTS)
    if counts is not None and counts.read.documents != sum(documents):
        raise BadInput(
            f"{folder / COUNTS}: counts {counts.read.documents} documents, and {sum(documents)} "
            "lie beside it; delete the folder, and the text is tokenized again"
        )
    return Split(
        train=train.tokens,
        validation=validation.tokens,
        documents=documents,
        vocabulary=tokenizer.vocabulary,
        content_hash=content_hash,
        tokenizer=tokenizer.identity,
        separator=tokenizer.separator,
        counts=counts,
        checks=(train.check, validation.check),
    )


def _open_side(folder: Path, side: str, tokenizer: Tokenizer) -> TokenFile:
    path = _bin(folder, side)
    file, sidecar = open_tokens(path), sidecar_path(path)
    for name in ("dtype", "vocabulary", "tokenizer", "separator"):
        found = getattr(file.sidecar, name)
        wanted = tokenizer.identity if name == "tokenizer" else getattr(tokenizer, name)
        if found != wanted:
            raise BadInput(
                f"{sidecar}: {name} is {found}, expected {wanted}, as the tokenizer has it; delete "
                "the folder, and the text is tokenized again"
            )
    if file.ends is None:
        raise BadInput(
            f"{index_path(path)}: no such file, expected where documents end; delete "
            "the folder, and the text is tokenized again"
        )
    return file


def _count(file: TokenFile) -> int:
    return 0 if file.ends is None else len(file.ends)


def _read_counts(path: Path) -> TextCounts | None:
    """None: tokenized by a version that did not count."""
    if look_at(path) is None:
        return None
    found = existing_file(path, str(path), "counts of the text; delete it")
    try:
        if found.st_size > COUNTS_BYTES:
            raise ValueError(f"{found.st_size} bytes")
        with reading(path):
            content = path.read_bytes()
        return read_counts(json.loads(content))
    except BadInput:
        raise
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"{path}: no counts of a text ({one_line(error)}); delete the folder, and the text is "
            "tokenized again"
        ) from error


def _tokenize(folder: Path, read: Read, tokenizer: Tokenizer, group_bytes: int) -> None:
    """Only what is written is guarded: what reading raises is not the cache's."""
    progress, counts, rest = _take_up(folder, read, tokenizer)
    with contextlib.ExitStack() as opened:
        with _writing(folder):
            _write_progress(folder, progress)  # before files are cut to it
            train, validation = (
                opened.enter_context(_Side(_bin(folder, side), extent, tokenizer))
                for side, extent in zip(SIDES, (progress.train, progress.validation), strict=True)
            )
        for group in _groups(rest, group_bytes):
            encoded = tokenizer.encode([document.text for document in group])
            progress.counts.add(encoded.counts)
            with _writing(folder):
                for document, tokens in zip(group, encoded.tokens, strict=True):
                    (validation if document.validation else train).append(tokens)
                progress = CacheProgress(
                    documents=progress.documents + len(group),
                    corpus_hash=group[-1].corpus_hash,
                    train=train.sync(),
                    validation=validation.sync(),
                    counts=progress.counts,
                )
                _write_progress(folder, progress)
    counts.add(progress.counts)
    with _writing(folder):
        _complete(folder, progress, counts, tokenizer)


def _take_up(
    folder: Path, read: Read, tokenizer: Tokenizer
) -> tuple[CacheProgress, TextCounts, Iterator[Placed]]:
    """Where a killed tokenization stood, and the documents after it, with the counts that they are
    read into; else the start."""
    with _writing(folder):
        progress = _read_progress(folder, tokenizer)
    counts = TextCounts()
    documents = read(counts)
    if progress.documents:
        done = itertools.islice(documents, progress.documents - 1, progress.documents)
        last = next(done, None)
        if last is None or last.corpus_hash != progress.corpus_hash:
            counts = TextCounts()
            return CacheProgress(), counts, read(counts)
    return progress, counts, documents


def _write_progress(folder: Path, progress: CacheProgress) -> None:
    write_json(_progress_path(folder), asdict(progress))


def _read_progress(folder: Path, tokenizer: Tokenizer) -> CacheProgress:
    try:
        written: dict[str, Any] = json.loads(_progress_path(folder).read_bytes())
        train, validation = (Extent(**written[side]) for side in SIDES)
        documents, corpus_hash = written["documents"], written["corpus_hash"]
        counts = read_counts(written["counts"])
        width = np.dtype(tokenizer.dtype).itemsize
        extents = zip(SIDES, (train, validation), strict=True)
        whole = all(_holds(_bin(folder, side), extent, width) for side, extent in extents)
    except (FileNotFoundError, ValueError, TypeError, KeyError, RecursionError):
        return CacheProgress()  # an older version's, or damaged: ours is replaced whole
    made = CacheProgress(documents, corpus_hash, train, validation, counts)
    return (
        made if whole and documents == train.documents + validation.documents else CacheProgress()
    )


def _holds(path: Path, extent: Extent, width: int) -> bool:
    """Whether that much is there, and its last document ends there."""
    if not (path.exists() and index_path(path).exists()):
        return False
    if not 0 <= extent.tokens * width <= path.stat().st_size or extent.documents < 0:
        return False
    end = np.array(0, INDEX_DTYPE)
    with index_path(path).open("rb") as file:
        if extent.documents:
            file.seek((extent.documents - 1) * end.nbytes)
            found = file.read(end.nbytes)
            end = np.frombuffer(found, INDEX_DTYPE)[0] if len(found) == end.nbytes else np.array(-1)
    return bool(end == extent.tokens)


def _complete(
    folder: Path, progress: CacheProgress, counts: TextCounts, tokenizer: Tokenizer
) -> None:
    write_json(folder / COUNTS, counts.plain())
    for side, extent in zip(SIDES, (progress.train, progress.validation), strict=True):
        sidecar = Sidecar(
            dtype=tokenizer.dtype,
            vocabulary=tokenizer.vocabulary,
            tokens=extent.tokens,
            content_hash=progress.corpus_hash,
            tokenizer=tokenizer.identity,
            separator=tokenizer.separator,
        )
        write_crc(_bin(folder, side))
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
        self._path, self._extent = path, extent

    def __enter__(self) -> _Side:
        with contextlib.ExitStack() as opened:
            self._tokens = opened.enter_context(self._path.open("ab"))
            self._ends = opened.enter_context(index_path(self._path).open("ab"))
            self._tokens.truncate(self._extent.tokens * self._dtype.itemsize)
            self._ends.truncate(self._extent.documents * 8)
            self._files = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with _writing(self._path.parent):  # what is left in a buffer
            self._files.close()

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
        yield
    except OSError as error:
        raise RunFailed(
            f"tokenizing into {folder} failed ({error}); free or name another disk with "
            "data.cache and start again, what is tokenized is kept"
        ) from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with contextlib.ExitStack() as opened:
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            file = opened.enter_context((folder / "lock").open("ab"))
            if sys.platform != "win32":
                fcntl.flock(file, fcntl.LOCK_EX)  # closing the file, or dying, lets go
        yield


def _bin(folder: Path, side: str) -> Path:
    return folder / f"{side}.bin"


def _progress_path(folder: Path) -> Path:
    return folder / "progress.json"

"""What a corpus is made of, and which side of the split each document falls on.

The side never depends on the run's seed, so runs with different seeds are measured on the same
validation text. A document with a name (a file) goes by the hash of its name, any other by the hash
of its text. Either way one text is never on both sides: equal texts without names share a hash, and
among named documents only the first of several equal texts is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

EMPTY_HASH = hashlib.sha256(b"checkfree corpus 1").hexdigest()


@dataclass(frozen=True)
class Document:
    """One text in UTF-8."""

    text: bytes
    name: str | None = None
    """Relative name of its file; None: a row of a table or stream, which has no name of its own."""
    validation: bool | None = None
    """The side, where the corpus itself decides; None: the hash decides."""


@dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order, which can be read any number of times."""

    identity: str
    """Changes when the documents may have; part of the cache's key."""
    size: int | None
    """Bytes on disk; None: unknown, as of a stream."""
    read: Callable[[], Iterator[Document]]


@dataclass(frozen=True)
class Placed:
    """A document that has its side; ``corpus_hash`` covers the corpus up to and with it."""

    text: bytes
    validation: bool
    corpus_hash: str


def place(documents: Iterable[Document], share: float) -> Iterator[Placed]:
    """Documents with their sides, without empty ones and repeated files.

    ``share``: expected share of the documents that go to validation, in (0, 1).
    """
    corpus_hash, seen = EMPTY_HASH, set[bytes]()
    for document in documents:
        digest = hashlib.sha256(document.text).digest()
        by_content = document.name is None and document.validation is None
        if not document.text or digest in seen:
            continue
        if not by_content:  # a stream of any length must not fill the memory with digests
            seen.add(digest)
        corpus_hash = _chain(corpus_hash, document, digest)
        yield Placed(document.text, _is_validation(document, digest, share), corpus_hash)


def _is_validation(document: Document, digest: bytes, share: float) -> bool:
    if document.validation is not None:
        return document.validation
    key = digest if document.name is None else _encode(document.name)
    draw = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
    return draw < share * 2**64


def _chain(corpus_hash: str, document: Document, digest: bytes) -> str:
    """A chain, unlike one hash over everything, can be written down and taken up again."""
    name = hashlib.sha256(_encode(document.name or "")).digest()
    return hashlib.sha256(bytes.fromhex(corpus_hash) + name + digest).hexdigest()


def _encode(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")

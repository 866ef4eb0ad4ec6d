"""What a corpus is made of, and which side of the split each document falls on.

The side never depends on the run's seed, so runs with different seeds are measured on the same
validation text. A document with a name (a file) goes by the hash of its name, any other by the hash
of its text. Either way one text is never on both sides: equal texts without names share a hash, and
among named documents only the first of several equal texts is kept. But a text that repeats itself
is read as it is, whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from checkfree.core.text_counts import REPLACED, Amount, TextCounts, render_counts

EMPTY_HASH = hashlib.sha256(b"checkfree corpus 1").hexdigest()


@dataclass(frozen=True)
class Document:
    """One text in UTF-8."""

    text: bytes
    name: str | None = None
    """Relative name of its file; None: a row of a table or stream, which has no name of its own."""
    validation: bool | None = None
    """The side, where the corpus itself decides; None: the hash decides."""
    whole: str | None = None
    """The text that it is a piece of, if it is: pieces of one text may be equal."""
    replaced: int = 0
    """Bytes that stand for what could not be written in UTF-8."""


@dataclass(frozen=True)
class Skipped:
    """Files or rows that a corpus does not give, in their place among its documents: for the
    counts in a run's records."""

    reason: str
    """As it is told after their number: ``hidden``."""
    documents: int = 1
    bytes: int = 0


MENDS = {
    "hidden": "rename them, or give the folder that they lie in",
    "binary": "give files of text, or another data.name",
    "UTF-16 text": "convert them: iconv -f UTF-16 -t UTF-8 OLD > NEW",
    "UTF-32 text": "convert them: iconv -f UTF-32 -t UTF-8 OLD > NEW",
    "empty": "give documents with text in them",
    "null": "set data.text_field to a column that has text",
    "of another name": "rename or unpack them, or give another data.name",
    "broken link": "mend the links, or give the folder that they led to",
    "special": "copy what they give into files",
    "link to a folder around it": "give the folder that has the files",
}
"""By the reason for which documents are skipped: what helps where they are most of all."""


def mend_for(counts: TextCounts, otherwise: str) -> str:
    """What helps where all is skipped, and why it is: by the commonest reason, if there is any."""
    if not counts.skipped:
        return otherwise
    reason = max(counts.skipped, key=lambda name: counts.skipped[name].documents)
    return f"{MENDS.get(reason, otherwise)} ({render_counts(counts)})"


@dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order, which can be read any number of times."""

    identity: str
    """Changes when the documents may have; part of the cache's key."""
    size: int | None
    """Bytes on disk; None: unknown, as of a stream."""
    read: Callable[[], Iterator[Document | Skipped]]


@dataclass(frozen=True)
class Placed:
    """A document that has its side; ``corpus_hash`` covers the corpus up to and with it."""

    text: bytes
    validation: bool
    corpus_hash: str


def place(
    documents: Iterable[Document | Skipped], share: float, counts: TextCounts | None = None
) -> Iterator[Placed]:
    """Documents with their sides, without empty ones and repeated files; all are in ``counts``.

    ``share``: expected share of the documents that go to validation, in (0, 1).
    """
    counts = TextCounts() if counts is None else counts
    corpus_hash, seen = EMPTY_HASH, dict[bytes, str | None]()
    for document in documents:
        if isinstance(document, Skipped):
            counts.skip(document.reason, document.documents, document.bytes)
            continue
        size = len(document.text)
        if not size:
            counts.skip("empty", 1, 0)
            continue
        digest = hashlib.sha256(document.text).digest()
        if digest in seen and (document.whole is None or document.whole != seen[digest]):
            counts.skip("repeated", 1, size)
            continue
        by_content = document.name is None and document.validation is None
        if not by_content:  # a stream of any length must not fill the memory with digests
            seen.setdefault(digest, document.whole)
        corpus_hash = _chain(corpus_hash, document, digest)
        counts.read.add(Amount(1, size))
        counts.change(REPLACED, document.replaced)
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

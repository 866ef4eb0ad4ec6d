"""What became of a run's text on its way to tokens: how much was read, what was skipped and why,
what a tokenizer could not say. Who reads documents counts it; the records of a run, and the cache
beside its tokens, keep it as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from checkfree.core.units import render_bytes

REPLACED = "replaced"
"""Changed: half a surrogate, which no UTF-8 has, became ``?``."""
UNKNOWN = "unknown"
"""Changed: what the tokenizer has no token for became its unknown token."""
DROPPED = "dropped"
"""Changed: what the tokenizer has no token for is missing; white space does not count."""

_CHANGES = {
    REPLACED: "replaced by ?",
    UNKNOWN: "unknown to the tokenizer",
    DROPPED: "dropped by the tokenizer",
}
_SPELLINGS_TOLD = 3


@dataclass
class Amount:
    """A number of documents, files or rows, and the bytes of text that it is about."""

    documents: int = 0
    bytes: int = 0

    def add(self, other: Amount) -> None:
        """Count those of another, too."""
        self.documents += other.documents
        self.bytes += other.bytes


@dataclass
class TextCounts:
    """Counts of a corpus, or of a part of it."""

    read: Amount = field(default_factory=Amount)
    """Documents that were tokenized, with all of their text."""
    skipped: dict[str, Amount] = field(default_factory=dict)
    """By reason: what was not."""
    changed: dict[str, Amount] = field(default_factory=dict)
    """By one of the words above: documents that it befell, and how many bytes of their text."""
    spellings: dict[str, int] = field(default_factory=dict)
    """By special token: how often text held what it is written like. Tokenized as text."""
    separators: int = 0
    """Separators within documents: text that a tokenizer can't tell from them."""

    def skip(self, reason: str, documents: int, size: int) -> None:
        """Count documents that are not read, and their bytes."""
        self.skipped.setdefault(reason, Amount()).add(Amount(documents, size))

    def change(self, how: str, size: int) -> None:
        """Count a document of which so many bytes are not as they were written, if any are not."""
        if size:
            self.changed.setdefault(how, Amount()).add(Amount(1, size))

    def add(self, other: TextCounts) -> None:
        """Count those of another, too."""
        self.read.add(other.read)
        for mine, theirs in ((self.skipped, other.skipped), (self.changed, other.changed)):
            for name, amount in theirs.items():
                mine.setdefault(name, Amount()).add(amount)
        for name, times in other.spellings.items():
            self.spellings[name] = self.spellings.get(name, 0) + times
        self.separators += other.separators

    def plain(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return asdict(self)


def read_counts(plain: object) -> TextCounts:
    """Counts from their plain form. Raises ValueError for what is none."""
    tree = _mapping(plain)
    try:
        return TextCounts(
            read=_amount(tree["read"]),
            skipped={name: _amount(found) for name, found in _mapping(tree["skipped"]).items()},
            changed={name: _amount(found) for name, found in _mapping(tree["changed"]).items()},
            spellings={name: _whole(found) for name, found in _mapping(tree["spellings"]).items()},
            separators=_whole(tree["separators"]),
        )
    except KeyError as error:
        raise ValueError(f"{error} is missing") from error


def _amount(plain: object) -> Amount:
    tree = _mapping(plain)
    return Amount(_whole(tree["documents"]), _whole(tree["bytes"]))


def _mapping(plain: object) -> Mapping[str, Any]:
    if not isinstance(plain, Mapping):
        raise ValueError(f"got {type(plain).__name__}, expected counts by name")
    return plain


def _whole(plain: object) -> int:
    if type(plain) is not int or plain < 0:
        raise ValueError(f"got {plain!r:.40}, expected a count")
    return plain


def render_counts(counts: TextCounts) -> str:
    """What is not zero, in one line; "" if all was read as it is."""
    told = []
    skipped = [
        f"{amount.documents} {reason}{f' ({render_bytes(amount.bytes)})' if amount.bytes else ''}"
        for reason, amount in counts.skipped.items()
    ]
    if skipped:
        told.append(f"skipped {', '.join(skipped)}")
    for how, amount in counts.changed.items():
        told.append(
            f"{render_bytes(amount.bytes)} in {_documents(amount.documents)} "
            f"{_CHANGES.get(how, how)}"
        )
    if counts.spellings:
        named = list(counts.spellings.items())
        listed = ", ".join(f"{name!r} {_times(n)}" for name, n in named[:_SPELLINGS_TOLD])
        rest = sum(times for _, times in named[_SPELLINGS_TOLD:])
        more = f", others {_times(rest)}" if rest else ""
        told.append(f"spellings of special tokens read as text: {listed}{more}")
    if counts.separators:
        told.append(
            f"the separator stands {_times(counts.separators)} within documents: their text holds "
            "what it is written like"
        )
    if not told:
        return ""
    read = f"{_documents(counts.read.documents)} ({render_bytes(counts.read.bytes)}) read"
    return "; ".join([read, *told])


def render_text(data: Mapping[str, Any], text: Mapping[str, Any]) -> str:
    """The line of a run's record of ``data`` and of its ``text``; "" if there is nothing to tell,
    or nothing was counted."""
    try:
        told = render_counts(read_counts(text)) if text else ""
    except ValueError:  # of a version that counts otherwise
        told = ""
    # A ready file of tokens may have separators that it doesn't tell of.
    if data.get("separator", 0) is None and data.get("name") != "bin":
        alone = "no separator between documents (data.separator names a token)"
        told = f"{told}; {alone}" if told else alone
    return f"data: {told}" if told else ""


def _documents(count: int) -> str:
    return f"{count} document{'' if count == 1 else 's'}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"

"""What a file is that is not what it was taken for, by its first bytes, and what makes of it one
that can be read."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

HEAD_BYTES = 4096
"""So many are looked at."""


@dataclass(frozen=True)
class Recognised:
    """A kind of file, as it is told: ``gzip data``."""

    what: str
    mend: str


GZIP = Recognised("gzip data", "unpack it with gunzip")
_PAGE = Recognised("a web page", "download the file itself")
_POINTER = Recognised("a pointer of Git LFS", "get what it points at: git lfs pull")
_SIGNATURES = {
    b"\x1f\x8b": GZIP,
    b"\x28\xb5\x2f\xfd": Recognised("zstd data", "unpack it with unzstd"),
    b"BZh": Recognised("bzip2 data", "unpack it with bunzip2"),
    b"\xfd7zXZ\0": Recognised("xz data", "unpack it with unxz"),
    b"PK\x03\x04": Recognised("a zip archive", "unpack it with unzip"),
    b"PAR1": Recognised("a Parquet file", "data.name parquet reads it"),
    b"version https://git-lfs": _POINTER,
    b"<!doctype html": _PAGE,
    b"<!DOCTYPE html": _PAGE,
    b"<html": _PAGE,
}
_MARKS = (
    # The longer ones first: that of UTF-32 begins as that of UTF-16.
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_UNMARKED = ("UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE")
_LEAST = 4  # characters, of which as good as all have to be of ASCII


def recognise(head: bytes) -> Recognised | None:
    """What begins so; None: nothing that we know."""
    head = head[:HEAD_BYTES]
    for signature, found in _SIGNATURES.items():
        if head.startswith(signature):
            return found
    encoding = wide_encoding(head)
    if encoding is None:
        return None
    mend = f"convert it: iconv -f {encoding} -t UTF-8 OLD > NEW"
    return Recognised(f"{encoding[:6]} text", mend)


def wide_encoding(head: bytes) -> str | None:
    """The UTF-16 or UTF-32 that a text is in, by its mark, or, where it has none, by its zeros."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    whole = head[: len(head) // 4 * 4]
    for encoding in _UNMARKED:
        text = whole.decode(encoding, "replace")
        plain = sum(" " <= letter <= "~" or letter in "\t\r\n" for letter in text)
        if plain >= max(_LEAST, 0.9 * len(text)):
            return encoding
    return None

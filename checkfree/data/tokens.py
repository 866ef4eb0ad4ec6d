"""Token files: ``NAME.bin``, memory-mapped, and what is needed to read it right.

======================  ==========================================================================
``NAME.bin``            tokens: uint8, uint16 or uint32, little-endian, nothing else
``NAME.bin.json``       the sidecar, ``{"dtype": "uint16", "vocabulary": 50257, "tokens": 1000}``;
                        also ``content_hash`` and ``tokenizer`` (text), ``separator`` (a token)
``NAME.bin.index``      optional: where each document ends, in tokens; uint64, little-endian
``NAME.bin.crc32``      optional: a checksum of every 64 KiB of the tokens; uint32, little-endian
======================  ==========================================================================

The cache is made of such files, so one of them can also be given as ``data.name bin``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from checkfree.core.errors import BadInput
from checkfree.core.text_counts import TextCounts
from checkfree.data.reading import existing_file, look_at, one_line, reading
from checkfree.data.tokenizers import Tokens

DTYPES = ("uint8", "uint16", "uint32")
INDEX_DTYPE = "<u8"
CRC_DTYPE = "<u4"
CRC_BYTES = 2**16
"""Of tokens, that have a checksum together: few enough to be read for any window in them."""
SIDECAR_BYTES = 2**20

_TYPES = {
    "dtype": str,
    "vocabulary": int,
    "tokens": int,
    "content_hash": str,
    "tokenizer": str,
    "separator": int,
}
_EXAMPLE = '{"dtype": "uint16", "vocabulary": 50257, "tokens": 1000}'


Check = Callable[[int, int], None]
"""Called with the first and the last but one of the tokens that are about to be used; raises
BadInput if they are not those that were written."""


@dataclass(frozen=True)
class Sidecar:
    """What ``NAME.bin.json`` says."""

    dtype: str
    vocabulary: int
    tokens: int
    content_hash: str | None = None
    tokenizer: str | None = None
    separator: int | None = None


@dataclass(frozen=True, eq=False)
class TokenFile:
    """An open token file; both arrays are read-only."""

    sidecar: Sidecar
    tokens: Tokens
    ends: npt.NDArray[np.uint64] | None
    """Where each document ends, in tokens; None: not known."""
    check: Check


def unchecked(start: int, stop: int) -> None:
    """The check of tokens that nobody made checksums of."""


@dataclass(frozen=True, eq=False)
class Split:
    """A corpus in tokens, its two sides apart."""

    train: Tokens
    validation: Tokens
    documents: tuple[int, int] | None
    """On each side; None: not known."""
    vocabulary: int
    content_hash: str
    tokenizer: str
    separator: int | None
    counts: TextCounts | None = None
    """Of the text that it was; None: not known."""
    checks: tuple[Check, Check] = (unchecked, unchecked)
    """Of each side."""


def sidecar_path(path: Path) -> Path:
    """``x.bin`` -> ``x.bin.json``"""
    return path.with_name(path.name + ".json")


def index_path(path: Path) -> Path:
    """``x.bin`` -> ``x.bin.index``"""
    return path.with_name(path.name + ".index")


def crc_path(path: Path) -> Path:
    """``x.bin`` -> ``x.bin.crc32``"""
    return path.with_name(path.name + ".crc32")


def open_tokens(path: Path) -> TokenFile:
    """Maps a token file after checking it against its sidecar; reads no token.

    Raises BadInput if a file is missing, or any size or field does not fit the others.
    """
    existing_file(path, str(path), "a .bin of tokens; check data.path")
    sidecar = _read_sidecar(sidecar_path(path))
    dtype = np.dtype(sidecar.dtype).newbyteorder("<")
    _check_size(path, sidecar.tokens * dtype.itemsize)
    ends = _open_index(index_path(path), sidecar.tokens)
    tokens = _map(path, dtype)
    return TokenFile(sidecar, tokens, ends, _open_check(path, tokens))


def write_sidecar(path: Path, sidecar: Sidecar) -> None:
    """Writes ``NAME.bin.json`` whole or not at all."""
    given = {k: v for k, v in dataclasses.asdict(sidecar).items() if v is not None}
    write_json(sidecar_path(path), given)


def write_crc(path: Path) -> None:
    """Writes ``NAME.bin.crc32`` of a whole ``NAME.bin``."""
    with path.open("rb") as file:
        sums = [zlib.crc32(block) for block in iter(lambda: file.read(CRC_BYTES), b"")]
    with crc_path(path).open("wb") as file:
        file.write(np.array(sums, CRC_DTYPE).tobytes())
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: object) -> None:
    """Replaces a JSON file in one step, so that a reader or a crash never sees half of it."""
    draft = path.with_name(path.name + ".draft")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def split_tail(file: TokenFile, path: Path, share: float) -> Split:
    """Splits ready tokens: the last ``share`` of them is validation, cut at a document's end.

    Documents are not compared, so a file that repeats one may have it on both sides. Without an
    index the cut may fall inside a document. Hashes the file unless its sidecar has the hash.
    """
    count = len(file.tokens)
    cut = count - round(count * share)
    if file.ends is not None and len(file.ends) > 1:
        inner = file.ends[:-1]
        cut = int(inner[min(int(np.searchsorted(inner, cut)), len(inner) - 1)])
    documents = None
    if file.ends is not None:
        before = int(np.searchsorted(file.ends, cut, side="right"))
        documents = before, len(file.ends) - before
    return Split(
        train=file.tokens[:cut],
        validation=file.tokens[cut:],
        documents=documents,
        vocabulary=file.sidecar.vocabulary,
        content_hash=file.sidecar.content_hash or _hash(path),
        tokenizer=file.sidecar.tokenizer or "unknown",
        separator=file.sidecar.separator,
        checks=(file.check, lambda start, stop: file.check(cut + start, cut + stop)),
    )


def _read_sidecar(path: Path) -> Sidecar:
    found = existing_file(path, str(path), f"a sidecar like {_EXAMPLE}; write one")
    if found.st_size > SIDECAR_BYTES:
        raise BadInput(f"{path}: over 1 MiB, expected a sidecar like {_EXAMPLE}; write a new one")
    fields = _read_fields(path)
    for name in ("dtype", "vocabulary", "tokens"):
        if name not in fields:
            raise BadInput(f"{path}: {name} is missing, expected a sidecar like {_EXAMPLE}; add it")
    known: dict[str, Any] = {name: fields[name] for name in _TYPES if name in fields}
    for name, value in known.items():
        if type(value) is not _TYPES[name]:
            raise BadInput(
                f"{path}: {name} is {value!r}, expected {_TYPES[name].__name__}; mend the sidecar"
            )
    return _checked(Sidecar(**known), path)


def _read_fields(path: Path) -> dict[str, object]:
    with reading(path):
        content = path.read_bytes()
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"{path}: not JSON ({one_line(error)}), expected {_EXAMPLE}; write a new one"
        ) from error
    if not isinstance(fields, dict):
        raise BadInput(f"{path}: not a JSON object, expected {_EXAMPLE}; write a new one")
    return fields


def _checked(sidecar: Sidecar, path: Path) -> Sidecar:
    if sidecar.dtype not in DTYPES:
        raise BadInput(
            f"{path}: dtype is {sidecar.dtype!r}, expected one of {', '.join(DTYPES)}; convert it"
        )
    if not 1 <= sidecar.vocabulary <= 2**32 or sidecar.tokens < 0:
        raise BadInput(
            f"{path}: vocabulary {sidecar.vocabulary} and tokens {sidecar.tokens}, expected "
            "vocabulary in [1, 2**32] and no negative count; mend the sidecar"
        )
    if sidecar.separator is not None and not 0 <= sidecar.separator < sidecar.vocabulary:
        raise BadInput(
            f"{path}: separator {sidecar.separator}, expected a token below the vocabulary of "
            f"{sidecar.vocabulary}; mend the sidecar"
        )
    return sidecar


def _check_size(path: Path, expected: int) -> None:
    with reading(path):
        size = path.stat().st_size
    if size != expected:
        state = "truncated" if size < expected else "longer than its sidecar says"
        raise BadInput(
            f"{path}: {state}, got {size} bytes, expected {expected}; "
            "delete it if it lies in the cache, else write it again"
        )


def _open_index(path: Path, tokens: int) -> npt.NDArray[np.uint64] | None:
    found = look_at(path)
    if found is None:
        return None
    existing_file(path, str(path), "where documents end; write it again or delete it")
    _check_size(path, found.st_size // 8 * 8)
    ends = _map(path, np.dtype(INDEX_DTYPE))
    if (int(ends[-1]) if len(ends) else 0) != tokens or not bool(np.all(ends[:-1] <= ends[1:])):
        raise BadInput(
            f"{path}: not where the documents end, expected growing uint64 up to {tokens}; "
            "write it again or delete it"
        )
    return ends


def _open_check(path: Path, tokens: Tokens) -> Check:
    """Each block is looked at once, before the first of its tokens is used."""
    if look_at(crc_path(path)) is None:
        return unchecked
    existing_file(crc_path(path), str(crc_path(path)), "checksums; delete it")
    data = tokens.view(np.uint8)
    _check_size(crc_path(path), -(-len(data) // CRC_BYTES) * np.dtype(CRC_DTYPE).itemsize)
    sums, seen = _map(crc_path(path), np.dtype(CRC_DTYPE)), set[int]()

    def check(start: int, stop: int) -> None:
        first, last = (at * tokens.itemsize // CRC_BYTES for at in (start, max(start, stop - 1)))
        for block in range(first, min(last + 1, len(sums))):
            if block in seen:
                continue
            at = block * CRC_BYTES
            if zlib.crc32(data[at : at + CRC_BYTES].tobytes()) != sums[block]:
                raise BadInput(
                    f"{path}: damaged from byte {at} on, its checksum is another; if it lies in "
                    "the cache, delete its folder, and the text is tokenized again"
                )
            seen.add(block)

    return check


def _map(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    with reading(path):
        if path.stat().st_size == 0:  # nothing can't be mapped
            return np.zeros(0, dtype)
        return np.memmap(path, dtype, mode="r")


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with reading(path), path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()

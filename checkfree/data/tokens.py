"""Token files: ``NAME.bin``, memory-mapped, and what is needed to read it right.

======================  ==========================================================================
``NAME.bin``            tokens: uint8, uint16 or uint32, little-endian, nothing else
``NAME.bin.json``       the sidecar, ``{"dtype": "uint16", "vocabulary": 50257, "tokens": 1000}``;
                        also ``content_hash`` and ``tokenizer`` (text), ``separator`` (a token)
``NAME.bin.index``      optional: where each document ends, in tokens; uint64, little-endian
======================  ==========================================================================

The cache is made of such files, so one of them can also be given as ``data.name bin``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from checkfree.core.errors import BadInput
from checkfree.data.tables import one_line
from checkfree.data.tokenizers import Tokens

DTYPES = ("uint8", "uint16", "uint32")
INDEX_DTYPE = "<u8"
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


def sidecar_path(path: Path) -> Path:
    """``x.bin`` -> ``x.bin.json``"""
    return path.with_name(path.name + ".json")


def index_path(path: Path) -> Path:
    """``x.bin`` -> ``x.bin.index``"""
    return path.with_name(path.name + ".index")


def open_tokens(path: Path) -> TokenFile:
    """Maps a token file after checking it against its sidecar; reads no token.

    Raises BadInput if a file is missing, or any size or field does not fit the others.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such file, expected a .bin of tokens; check data.path")
    sidecar = _read_sidecar(sidecar_path(path))
    dtype = np.dtype(sidecar.dtype).newbyteorder("<")
    _check_size(path, sidecar.tokens * dtype.itemsize)
    ends = _open_index(index_path(path), sidecar.tokens)
    return TokenFile(sidecar, _map(path, dtype), ends)


def write_sidecar(path: Path, sidecar: Sidecar) -> None:
    """Writes ``NAME.bin.json`` whole or not at all."""
    given = {k: v for k, v in dataclasses.asdict(sidecar).items() if v is not None}
    write_json(sidecar_path(path), given)


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
    )


def _read_sidecar(path: Path) -> Sidecar:
    if not path.is_file():
        raise BadInput(f"{path}: no such file, expected a sidecar like {_EXAMPLE}; write one")
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
    if path.stat().st_size > SIDECAR_BYTES:
        raise BadInput(f"{path}: over 1 MiB, expected a sidecar like {_EXAMPLE}; write a new one")
    try:
        fields = json.loads(path.read_bytes())
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
    return sidecar


def _check_size(path: Path, expected: int) -> None:
    size = path.stat().st_size
    if size != expected:
        state = "truncated" if size < expected else "longer than its sidecar says"
        raise BadInput(
            f"{path}: {state}, got {size} bytes, expected {expected}; "
            "delete it if it lies in the cache, else write it again"
        )


def _open_index(path: Path, tokens: int) -> npt.NDArray[np.uint64] | None:
    if not path.is_file():
        return None
    _check_size(path, path.stat().st_size // 8 * 8)
    ends = _map(path, np.dtype(INDEX_DTYPE))
    if (int(ends[-1]) if len(ends) else 0) != tokens or not bool(np.all(ends[:-1] <= ends[1:])):
        raise BadInput(
            f"{path}: not where the documents end, expected growing uint64 up to {tokens}; "
            "write it again or delete it"
        )
    return ends


def _map(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    if path.stat().st_size == 0:  # nothing can't be mapped
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r")


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()

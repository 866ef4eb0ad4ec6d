"""Rows with a text column: JSONL (plain or gzipped) and Parquet, never a whole file in memory."""

from __future__ import annotations

import codecs
import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from checkfree.core.errors import BadInput
from checkfree.data.corpora import Listing, local_files
from checkfree.data.documents import Corpus, Document, Skipped
from checkfree.data.reading import Position, one_line, optional, reading
from checkfree.data.recognise import GZIP, HEAD_BYTES, Recognised, recognise

JSONL_SUFFIXES = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".json.gz")
LINE_BYTES = 2**30
"""A longer line is no row: a file that is one JSON value, or a few bytes that unpack to many."""
PARQUET_ROWS = 1024
PARQUET_BYTES = 64 * 2**20
"""Rows are read together up to as many, and up to so many bytes."""

Rows = Iterator["Document | Skipped"]


def jsonl(path: str | None, field: str) -> Corpus:
    """One document per line: a JSON object with its text under ``field``; blank lines are passed.

    Raises BadInput if the path is missing, and when read, if a line is malformed or has no text,
    with file and line number.
    """
    found, _ = local_files("jsonl", path, JSONL_SUFFIXES)
    return _table(found, field, lambda file: _read_jsonl(file, field))


def parquet(path: str | None, field: str) -> Corpus:
    """One document per row, its text in column ``field``; nulls are skipped.

    Raises BadInput if the path or pyarrow is missing, and when read, if a file is not Parquet, is
    damaged or has no such column of text.
    """
    found, _ = local_files("parquet", path, (".parquet",))
    reader = optional("pyarrow.parquet", "data.name parquet")
    return _table(found, field, lambda file: _read_parquet(reader, file, field))


def _table(found: Listing, field: str, rows: Callable[[Path], Rows]) -> Corpus:
    def read() -> Rows:
        yield from found.skipped
        for file in found.files:
            empty = True
            for row in rows(file.path):
                empty = False
                yield row
            if empty:
                yield Skipped("empty")

    return Corpus(f"{field}\n{found.fingerprint}", found.size, read)


def row_document(row: object, field: str, where: str) -> Document | Skipped:
    """The text of a row; skipped where it is null. ``where`` names the row in errors.

    Raises BadInput if the row has no such column or it holds no text.
    """
    if not isinstance(row, Mapping):
        raise BadInput(f"{where}: got {type(row).__name__}, expected an object with {field!r}")
    if field not in row:
        raise missing_column(where, field, list(map(str, row)))
    text = row[field]
    if text is None:
        return Skipped("null")
    if not isinstance(text, str):
        raise BadInput(
            f"{where}: column {field!r} holds {type(text).__name__}, expected text; "
            "set data.text_field to a column of text"
        )
    try:
        return Document(text.encode())
    except UnicodeEncodeError:  # half a surrogate, which JSON can write
        halves = sum("\ud800" <= character <= "\udfff" for character in text)
        return Document(text.encode("utf-8", "replace"), replaced=halves)


def missing_column(where: str, field: str, columns: list[str]) -> BadInput:
    """The error for a table without the column, naming those it has."""
    has = ", ".join(columns) or "no columns"
    return BadInput(
        f"{where}: no column {field!r}, it has {has}; set data.text_field to the one with the text"
    )


def _read_jsonl(path: Path, field: str) -> Rows:
    with reading(path) as place, _open(path) as lines:
        number, first = 1, True
        place.at = "line 1"
        while line := lines.readline(LINE_BYTES + 1):
            if not line.isspace():
                yield row_document(_parse(line, place, first), field, str(place))
                first = False
            number += 1
            place.at = f"line {number}"


def _open(path: Path) -> io.BufferedIOBase:
    if path.suffix.lower() != ".gz":
        return path.open("rb")
    found = _begins_as(path, f"rename it to {path.stem}")
    if found is not None and found is not GZIP:
        raise BadInput(f"{path}: {found.what}, expected a whole gzip file; {found.mend}")
    return gzip.open(path, "rb")


def _begins_as(path: Path, mend: str) -> Recognised | None:
    """What a file is by its first bytes; ``mend``: where that is plain text."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    found = recognise(head)
    if found is None and head:
        with suppress(UnicodeDecodeError):
            codecs.getincrementaldecoder("utf-8")().decode(head)
            return Recognised("plain text", mend)
    return found


def _parse(line: bytes, place: Position, first: bool) -> object:
    """The value of a line, the ``first`` of its file or not."""
    if len(line) > LINE_BYTES:
        what, mend = f"over {LINE_BYTES} bytes", "write each row on a line of its own"
        raise _no_row(line, place, first, what, mend)
    if not line.strip(b"\0\r\n"):  # json takes them for UTF-32
        what, mend = "nothing but zeros, as a crash leaves them", "remove the line"
        raise _no_row(line, place, first, what, mend)
    try:
        parsed: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        what, mend = f"not JSON ({one_line(error)})", "mend or remove the line"
        raise _no_row(line, place, first, what, mend) from error
    if first and isinstance(parsed, list):
        raise _no_row(line, place, first, "a list", "mend or remove the line")
    return parsed


def _no_row(line: bytes, place: Position, first: bool, what: str, mend: str) -> BadInput:
    """The error for such a line. Where not even the first is a row, the file is something else."""
    found = _recognise_lines(line, place.path) if first else None
    if found is not None:
        return BadInput(f"{place.path}: {found.what}, expected one object per line; {found.mend}")
    return BadInput(f"{place}: {what}, expected one object per line; {mend}")


def _recognise_lines(line: bytes, path: Path) -> Recognised | None:
    found, text = recognise(line), line.strip()
    if found is GZIP and path.suffix.lower() != ".gz":
        return Recognised(GZIP.what, f"rename it to {path.name}.gz")
    if found is not None:
        return found
    if text.startswith(b"["):
        return Recognised("one JSON array", "write its rows apart: jq -c '.[]' OLD > NEW")
    if b"\r" in text:
        return Recognised("lines that end in CR alone", "convert it: tr '\\r' '\\n' < OLD > NEW")
    if text.startswith(b"{") and text.endswith((b"{", b"[", b",")):
        return Recognised("JSON over several lines", "write rows on one each: jq -c . OLD > NEW")
    return None


def _read_parquet(reader: Any, path: Path, field: str) -> Rows:
    with reading(path) as place, _open_parquet(reader, path) as file:
        if field not in file.schema_arrow.names:
            raise missing_column(str(path), field, list(file.schema_arrow.names))
        number = 0
        for group in range(file.num_row_groups):
            place.at = f"row group {group}"
            about = file.metadata.row_group(group)
            expected = number + about.num_rows
            fitting = PARQUET_BYTES * about.num_rows // max(1, about.total_byte_size)
            rows = min(PARQUET_ROWS, max(1, fitting))
            for batch in file.iter_batches(rows, row_groups=[group], columns=[field]):
                for text in batch.column(0).to_pylist():
                    yield row_document({field: text}, field, f"{path} row {number}")
                    number += 1
            if number != expected:
                raise ValueError(f"its rows end at {number}, it says {expected}")


def _open_parquet(reader: Any, path: Path) -> Any:
    try:
        return reader.ParquetFile(path, page_checksum_verification=True)
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from these
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's
        what, mend = f"not a Parquet file ({one_line(error)})", "check data.path"
        found = _begins_as(path, "give another data.name, as jsonl or text")
        if found is not None and found.what not in what:  # one that is damaged begins as one
            what, mend = found.what, found.mend
        raise BadInput(f"{path}: {what}, expected a Parquet file; {mend}") from error

"""Rows with a text column: JSONL (plain or gzipped) and Parquet, never a whole file in memory."""

from __future__ import annotations

import gzip
import importlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from checkfree.core.errors import BadInput
from checkfree.data.corpora import fingerprint, local_files, total_size
from checkfree.data.documents import Corpus, Document

JSONL_SUFFIXES = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".json.gz")
PARQUET_ROWS = 1024


def jsonl(path: str | None, field: str) -> Corpus:
    """One document per line: a JSON object with its text under ``field``; blank lines are passed.

    Raises BadInput if the path is missing, and when read, if a line is malformed or has no text,
    with file and line number.
    """
    files = local_files("jsonl", path, JSONL_SUFFIXES)
    return Corpus(
        f"{field}\n{fingerprint(files)}",
        total_size(files),
        lambda: (document for file in files for document in _read_jsonl(file.path, field)),
    )


def parquet(path: str | None, field: str) -> Corpus:
    """One document per row, its text in column ``field``; nulls are passed.

    Raises BadInput if the path or pyarrow is missing, and when read, if a file is not Parquet or
    has no such column of text.
    """
    files = local_files("parquet", path, (".parquet",))
    reader = optional("pyarrow.parquet", "data.name parquet")
    return Corpus(
        f"{field}\n{fingerprint(files)}",
        total_size(files),
        lambda: (d for file in files for d in _read_parquet(reader, file.path, field)),
    )


def row_document(row: object, field: str, where: str) -> Document | None:
    """The text of a row; None where it is null. ``where`` names the row in errors.

    Raises BadInput if the row has no such column or it holds no text.
    """
    if not isinstance(row, Mapping):
        raise BadInput(f"{where}: got {type(row).__name__}, expected an object with {field!r}")
    if field not in row:
        raise missing_column(where, field, list(map(str, row)))
    text = row[field]
    if text is None:
        return None
    if not isinstance(text, str):
        raise BadInput(
            f"{where}: column {field!r} holds {type(text).__name__}, expected text; "
            "set data.text_field to a column of text"
        )
    return Document(text.encode("utf-8", "replace"))


def missing_column(where: str, field: str, columns: list[str]) -> BadInput:
    """The error for a table without the column, naming those it has."""
    has = ", ".join(columns) or "no columns"
    return BadInput(
        f"{where}: no column {field!r}, it has {has}; set data.text_field to the one with the text"
    )


def optional(module: str, what: str) -> Any:
    """A module of the extra ``data``. Raises BadInput with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise BadInput(
            f"{what} needs the package {package}, which is not installed; "
            "run: pip install 'checkfree[data]'"
        ) from error


def one_line(error: BaseException) -> str:
    """An error of a library, short enough to stand in one of ours."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _read_jsonl(path: Path, field: str) -> Iterator[Document]:
    try:
        with _open(path) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    document = row_document(
                        _parse(line, path, number), field, f"{path} line {number}"
                    )
                    if document:
                        yield document
    except (gzip.BadGzipFile, EOFError) as error:
        raise BadInput(
            f"{path}: {one_line(error)}, expected a whole gzip file; download it again"
        ) from error


def _open(path: Path) -> io.BufferedIOBase:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _parse(line: bytes, path: Path, number: int) -> object:
    try:
        parsed: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"{path} line {number}: not JSON ({one_line(error)}), expected one object per line; "
            "mend or remove the line"
        ) from error
    return parsed


def _read_parquet(reader: Any, path: Path, field: str) -> Iterator[Document]:
    try:
        file = reader.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from these
        raise BadInput(
            f"{path}: not a Parquet file ({one_line(error)}), expected one; check data.path"
        ) from error
    with file:
        if field not in file.schema_arrow.names:
            raise missing_column(str(path), field, list(file.schema_arrow.names))
        for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=[field]):
            for text in batch.column(0).to_pylist():
                document = row_document({field: text}, field, str(path))
                if document:
                    yield document

"""Compact records of a finished run: what reports read, in some ten kilobytes that go into git."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from checkfree.runtime.files import write_whole
from checkfree.study.folders import Records, compact_path
from checkfree.study.plan import Cell

KEPT = {"iteration": ("iteration", "tick", "loss", "tokens", "seconds")}
"""Of these kinds only these keys are kept; of others all."""

LEFT_OUT = ("ledger",)
"""Kinds that reports don't read."""


def pack(records: Records, place: str) -> bytes:
    """A gzip file of JSON lines, the same for the same records. Losses keep all their digits,
    seconds their milliseconds; ``place`` is told instead of the folder, which is one machine's."""
    lines = (
        json.dumps(_short(record, place), separators=(",", ":"))
        for record in records
        if record["kind"] not in LEFT_OUT
    )
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(), 9, mtime=0)


def _short(record: Any, place: str) -> dict[str, Any]:
    keys = KEPT.get(record["kind"])
    kept = {"kind": record["kind"], **{k: v for k, v in record.items() if not keys or k in keys}}
    if isinstance(kept.get("seconds"), float):
        kept["seconds"] = round(kept["seconds"], 3)
    if kept["kind"] == "config":
        kept["config"] = {**kept["config"], "out": place}
    return kept


def write_compact(records: Records, results: Path, cell: Cell) -> None:
    """Keep a finished run in a folder of results, unless it stands there. Raises RunFailed if it
    can't be written."""
    path, packed = compact_path(results, cell), pack(records, cell.place)
    if _content(path) != gzip.decompress(packed):  # another zlib makes other bytes of equal lines
        write_whole(path, packed)


def _content(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error):
        return b""

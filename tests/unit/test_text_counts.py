"""What became of a run's text: counted, kept as JSON, told in a line that says what is not zero."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import checkfree
from checkfree.cli.display import Display
from checkfree.core.config import Config
from checkfree.core.records import ConfigRecord, dumps
from checkfree.core.text_counts import (
    DROPPED,
    REPLACED,
    UNKNOWN,
    Amount,
    TextCounts,
    read_counts,
    render_counts,
    render_text,
)
from checkfree.messages.recorded import read_record
from checkfree.report.study.config_section import versions
from checkfree.report.study.groups import book
from checkfree.study.gather import gather
from checkfree.study.watcher import Watcher

ALL = TextCounts(
    read=Amount(12, 3000),
    skipped={"binary": Amount(2, 2048), "hidden": Amount(1, 0)},
    changed={UNKNOWN: Amount(3, 17), DROPPED: Amount(1, 2), REPLACED: Amount(1, 1)},
    spellings={"<|endoftext|>": 3, "</s>": 1, "a": 1, "b": 2},
    separators=2,
)
LINE = (
    "12 documents (2.9 KiB) read; skipped 2 binary (2.0 KiB), 1 hidden; 17 B in 3 documents "
    "unknown to the tokenizer; 2 B in 1 document dropped by the tokenizer; 1 B in 1 document "
    "replaced by ?; spellings of special tokens read as text: '<|endoftext|>' 3 times, '</s>' "
    "once, 'a' once, others 2 times; the separator stands 2 times within documents: their text "
    "holds what it is written like"
)
ALONE = "no separator between documents (data.separator names a token)"


def test_counts_come_back_from_json() -> None:
    assert read_counts(json.loads(json.dumps(ALL.plain()))) == ALL
    assert read_counts(TextCounts().plain()) == TextCounts()


def test_counts_add_up() -> None:
    twice = read_counts(ALL.plain())
    twice.add(ALL)
    assert twice.read == Amount(24, 6000) and twice.separators == 4
    assert twice.skipped == {"binary": Amount(4, 4096), "hidden": Amount(2, 0)}
    assert twice.changed[UNKNOWN] == Amount(6, 34) and twice.spellings["<|endoftext|>"] == 6
    assert ALL.read == Amount(12, 3000)


def test_one_line_says_what_is_not_zero() -> None:
    assert render_counts(ALL) == LINE
    assert render_counts(TextCounts(read=Amount(5, 5))) == ""


@pytest.mark.parametrize(
    ("data", "text", "line"),
    [
        ({"name": "text", "separator": 0}, ALL.plain(), f"data: {LINE}"),
        ({"name": "text", "separator": 0}, TextCounts().plain(), ""),
        ({"name": "text", "separator": None}, TextCounts().plain(), f"data: {ALONE}"),
        ({"name": "text", "separator": None}, {}, f"data: {ALONE}"),
        ({"name": "text", "separator": None}, ALL.plain(), f"data: {LINE}; {ALONE}"),
        ({"name": "bin", "separator": None}, {}, ""),
        ({"name": "user"}, {}, ""),
        ({"name": "text", "separator": 0}, {"of": "another version"}, ""),
    ],
)
def test_the_line_of_a_run(data: dict[str, Any], text: dict[str, Any], line: str) -> None:
    assert render_text(data, text) == line


def shown(record: ConfigRecord, quiet: bool = False, terminal: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=terminal, highlight=False)
    with Display(Config(), console, quiet=quiet) as display:
        display(record)
    return out.getvalue()


def test_a_display_tells_it_as_the_run_begins() -> None:
    record = ConfigRecord({}, {}, {"name": "text", "separator": 0}, 1, text=ALL.plain())
    assert shown(record) == f"data: {LINE}\n"
    assert shown(record, quiet=True) == ""
    assert "others 2 times" in shown(record, terminal=True).replace("\n", "")
    assert shown(ConfigRecord({}, {}, {"name": "text", "separator": 0}, 1)) == ""


def test_records_without_counts_are_still_read() -> None:
    record = ConfigRecord({}, {}, {"name": "text"}, 1)
    plain = json.loads(dumps(record))
    assert "text" not in plain
    assert read_record(plain) == record
    full = ConfigRecord({}, {}, {"name": "text"}, 1, text=ALL.plain())
    assert read_record(json.loads(dumps(full))) == full


def settings(folder: Path) -> dict[str, Any]:
    texts = folder / "texts"
    texts.mkdir()
    for number in range(8):
        (texts / f"{number}.txt").write_text(f"some text {number} " * 20)
    (texts / "p.png").write_bytes(b"\0\0")
    return {
        "iterations": 2,
        "stages": 2,
        "microbatches": 2,
        "batch": 1,
        "out": str(folder / "run"),
        "model": {"width": 8, "heads": 1, "hidden": 8, "blocks": 2, "context": 8},
        "data": {"name": "text", "path": str(texts), "validation_share": 0.5},
        "failures": "none",
        "validation": {"every": 0},
    }


def test_a_run_records_it(tmp_path: Path) -> None:
    run = checkfree.train(settings(tmp_path))
    text = run.records[0]["text"]
    assert text["read"] == {"documents": 8, "bytes": 8 * 20 * 12}
    assert text["skipped"] == {"binary": {"documents": 1, "bytes": 2}}
    table = versions(book(gather([run.folder])))
    assert table is not None and "skipped 1 binary (2 B)" in str(table.rows)


def test_a_comparison_tells_it_once(tmp_path: Path) -> None:
    class Noting(Watcher):
        notes: list[str]

        def note(self, line: str) -> None:
            self.notes.append(line)

    watcher = Noting()
    watcher.notes = []
    config = {**settings(tmp_path), "out": "unused"}
    checkfree.compare(
        config, strategies=["none"], out=tmp_path / "compare", workers=1, watcher=watcher
    )
    assert sum("skipped 1 binary" in line for line in watcher.notes) == 1

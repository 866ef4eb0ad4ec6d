"""Files that are not what their name or data.name says: one line with what they are, and the best
mend; and a corpus of which nothing is left."""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
import os
import subprocess
from pathlib import Path

import pytest

from checkfree.core.config import DataConfig
from checkfree.core.errors import BadInput
from checkfree.core.text_counts import TextCounts
from checkfree.data import open_data, tables
from checkfree.data.corpora import text
from checkfree.data.documents import Document, place
from checkfree.data.recognise import wide_encoding
from checkfree.data.tables import jsonl, parquet
from checkfree.data.tokenizers import open_tokenizer

ROWS = "".join(json.dumps({"text": f"row {number}"}) + "\n" for number in range(200))
WIDE = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
ARRAY = json.dumps([{"text": "one"}, {"text": "two"}])


def refusal(config: DataConfig) -> str:
    with pytest.raises(BadInput) as caught:
        open_data(config, context=4, batch=1, seed=0)
    message = str(caught.value)
    assert "\n" not in message
    return message


def zstd(content: bytes) -> bytes:
    return b"\x28\xb5\x2f\xfd" + gzip.compress(content)  # only its beginning is looked at


PACKED = {
    "gzip": gzip.compress(ROWS.encode()),
    "zstd": zstd(ROWS.encode()),
    "bzip2": bz2.compress(ROWS.encode()),
    "xz": lzma.compress(ROWS.encode()),
}
JSONL = {
    # name, content: what the line says
    "zstd": ("a.jsonl", PACKED["zstd"], "a.jsonl: zstd data, * unpack it with unzstd"),
    "bzip2": ("a.jsonl", PACKED["bzip2"], "a.jsonl: bzip2 data, * unpack it with bunzip2"),
    "xz": ("a.jsonl", PACKED["xz"], "a.jsonl: xz data, * unpack it with unxz"),
    "gzip": ("a.jsonl", PACKED["gzip"], "a.jsonl: gzip data, * rename it to a.jsonl.gz"),
    "gzip twice": (
        "a.jsonl.gz",
        gzip.compress(PACKED["gzip"]),
        "a.jsonl.gz: gzip data, expected one object per line; unpack it with gunzip",
    ),
    "no gzip": (
        "a.jsonl.gz",
        ROWS.encode(),
        "a.jsonl.gz: plain text, expected a whole gzip file; rename it to a.jsonl",
    ),
    "other packing": (
        "a.jsonl.gz",
        PACKED["zstd"],
        "a.jsonl.gz: zstd data, expected a whole gzip file; unpack it with unzstd",
    ),
    "cr": (
        "a.jsonl",
        ROWS.replace("\n", "\r").encode(),
        r"a.jsonl: lines that end in CR alone, * convert it: tr '\r' '\n'",
    ),
    "array": ("a.json", ARRAY.encode(), "a.json: one JSON array, * jq -c '.[]'"),
    "array over lines": (
        "a.json",
        json.dumps(json.loads(ARRAY), indent=1).encode(),
        "a.json: one JSON array, * jq -c '.[]'",
    ),
    "array, packed": ("a.json.gz", gzip.compress(ARRAY.encode()), "a.json.gz: one JSON array"),
    "objects over lines": (
        "a.json",
        json.dumps({"text": "one", "id": 3}, indent=1).encode(),
        "a.json: JSON over several lines, * jq -c .",
    ),
    "Parquet": ("a.jsonl", b"PAR1\x15\x04\x15", "a.jsonl: a Parquet file, * data.name parquet"),
    "Git LFS": (
        "a.jsonl",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
        "a.jsonl: a pointer of Git LFS, * git lfs pull",
    ),
    "page": ("a.jsonl", b"<!DOCTYPE html>\n<html>", "a.jsonl: a web page, * download the file"),
    **{
        encoding: (
            "a.jsonl",
            ROWS.encode(encoding),
            f"a.jsonl: {encoding[:6].upper()} text, * convert it: iconv -f {encoding[:6].upper()}",
        )
        for encoding in WIDE
        # json reads what is in UTF-16 and ends its lines in the byte that we look for.
        if encoding not in ("utf-16-be", "utf-32-be")
    },
}


def says(message: str, parts: str) -> bool:
    return all(part.strip() in message for part in parts.split("*"))


@pytest.mark.parametrize("what", JSONL)
@pytest.mark.parametrize("lone", [True, False])
def test_rows_that_are_none(tmp_path: Path, what: str, lone: bool) -> None:
    name, content, told = JSONL[what]
    (tmp_path / name).write_bytes(content)
    path = tmp_path / name if lone else tmp_path
    message = refusal(DataConfig("jsonl", str(path)))
    assert says(message, told), message


def test_an_endless_line_of_cr_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "LINE_BYTES", 1000)
    (tmp_path / "a.jsonl").write_bytes(ROWS.replace("\n", "\r").encode())
    assert "end in CR alone" in refusal(DataConfig("jsonl", str(tmp_path)))


@pytest.mark.parametrize("line", ["[1]", "[", "{", '{"text": "a"}\r{"text": "b"}', "<html>"])
def test_what_only_a_later_line_is_is_the_line_s_fault(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'\n{{"text": "good"}}\n{line}\n', newline="")
    assert "a.jsonl line 3: " in refusal(DataConfig("jsonl", str(tmp_path)))


def test_a_mend_makes_of_it_what_can_be_read(tmp_path: Path) -> None:
    """Those that every system has the command for."""
    for number, (content, command) in enumerate(
        [
            (ROWS.encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
            (ROWS.encode("utf-32-le"), "iconv -f UTF-32LE -t UTF-8"),
            (ROWS.replace("\n", "\r").encode(), r"tr '\r' '\n'"),
        ]
    ):
        old, new = tmp_path / f"{number}.jsonl", tmp_path / f"new-{number}.jsonl"
        old.write_bytes(content)
        assert f"convert it: {command} " in refusal(DataConfig("jsonl", str(old)))
        subprocess.run(f"{command} < {old} > {new}", shell=True, check=True)
        assert new.read_bytes() == ROWS.encode()


# Text


@pytest.mark.parametrize("encoding", WIDE)
def test_a_lone_text_in_utf_16_is_told_as_such(tmp_path: Path, encoding: str) -> None:
    """Without a mark, its ASCII would pass for UTF-8 with zeros."""
    (tmp_path / "a.txt").write_bytes("plain prose, é\n".encode(encoding) * 30)
    message = refusal(DataConfig("text", str(tmp_path / "a.txt")))
    told = encoding[:6].upper()
    assert says(message, f"a.txt: {told} text, expected UTF-8 text; * iconv -f {told}"), message


@pytest.mark.parametrize("encoding", WIDE)
def test_a_text_in_utf_16_among_others_is_counted_as_such(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes("plain prose\n".encode(encoding) * 30)
    (tmp_path / "b.txt").write_text("prose in UTF-8")
    (tmp_path / "c.png").write_bytes(b"\x89PNG\0\1\2\3")
    counts = TextCounts()
    list(place(text(str(tmp_path), 0.5).read(), 0.5, counts))
    assert {name: found.documents for name, found in counts.skipped.items()} == {
        f"{encoding[:6].upper()} text": 1,
        "binary": 1,
    }


@pytest.mark.parametrize("kind", PACKED)
def test_a_packed_text_is_told_as_such(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.txt").write_bytes(PACKED[kind])
    assert f"a.txt: {kind} data, expected UTF-8" in refusal(
        DataConfig("text", str(tmp_path / "a.txt"))
    )


@pytest.mark.parametrize("content", [b"", b"abc", "日本語 ☃ é".encode(), b"a\0b\0c", b"\0" * 99])
def test_what_is_in_no_wide_encoding(content: bytes) -> None:
    assert wide_encoding(content) is None


# Parquet


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (PACKED["gzip"], "gzip data, expected a Parquet file; unpack it with gunzip"),
        (ROWS.encode(), "plain text, expected a Parquet file; give another data.name, as jsonl"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"PAR1 and no more", "not a Parquet file"),
        (b"", "not a Parquet file"),
    ],
)
def test_what_is_no_parquet_file(tmp_path: Path, content: bytes, told: str) -> None:
    pytest.importorskip("pyarrow", reason="Parquet needs the extra checkfree[data]")
    (tmp_path / "a.parquet").write_bytes(content)
    assert f"a.parquet: {told}" in refusal(DataConfig("parquet", str(tmp_path)))


# Nothing is left

LEFT = {
    "text": {
        "empty": ("a.txt", b"", "give documents with text"),
        "binary": ("a.png", b"\0\1", "give files of text, or another data.name"),
        "UTF-16 text": ("a.txt", "some prose".encode("utf-16"), "iconv -f UTF-16"),
        "UTF-32 text": ("a.txt", "some prose".encode("utf-32"), "iconv -f UTF-32"),
        "hidden": (".a.txt", b"text", "rename them, or give the folder"),
    },
    "jsonl": {
        "null": ("a.jsonl", b'{"text": null}\n' * 3, "set data.text_field to a column"),
        "empty": ("a.jsonl", b'{"text": ""}\n', "give documents with text"),
        "of another name": ("a.jsonl.zst", b"x", "rename or unpack them"),
    },
}


@pytest.mark.parametrize(("kind", "reason"), [(k, reason) for k in LEFT for reason in LEFT[k]])
def test_where_nothing_is_left_the_commonest_reason_is_mended(
    tmp_path: Path, kind: str, reason: str
) -> None:
    name, content, mend = LEFT[kind][reason]
    (tmp_path / name).write_bytes(content)
    message = refusal(DataConfig(kind, str(tmp_path)))
    count = 3 if reason == "null" else 1
    assert f"data.path {tmp_path}: no " in message
    assert mend in message and f"skipped {count} {reason}" in message, message


def test_of_several_reasons_all_are_counted(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"\0\1")
    (tmp_path / "gone").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "a.txt").write_bytes(b"")
    message = refusal(DataConfig("text", str(tmp_path)))
    assert "1 broken link" in message and "1 special" in message and "1 empty" in message
    assert "3 binary (6 B)" in message and "give files of text" in message


def test_a_lone_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    assert "skipped 1 empty" in refusal(DataConfig("text", str(tmp_path / "a.txt")))


def test_what_could_always_be_read_still_is(tmp_path: Path) -> None:
    """json finds by itself that a row is in UTF-16, if it is the only one; a mark before UTF-8, and
    CR before LF, are none of a row."""
    (tmp_path / "a.jsonl").write_bytes('{"text": "one"}'.encode("utf-16"))
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "two"}\r\n{"text": "three"}\r')
    found = [d.text for d in jsonl(str(tmp_path), "text").read() if isinstance(d, Document)]
    assert found == [b"one", b"two", b"three"]


# What else has come up


def test_a_gzip_file_in_capitals_is_one(tmp_path: Path) -> None:
    (tmp_path / "A.JSONL.GZ").write_bytes(PACKED["gzip"])
    assert len(list(jsonl(str(tmp_path / "A.JSONL.GZ"), "text").read())) == 200


def test_the_zeros_that_a_crash_leaves_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(ROWS.encode() + b"\0" * 99)
    message = refusal(DataConfig("jsonl", str(tmp_path)))
    assert "a.jsonl line 201: nothing but zeros" in message and "remove the line" in message


@pytest.mark.parametrize("name", ["text", "jsonl", "parquet"])
def test_an_address_is_no_path(name: str) -> None:
    pytest.importorskip("pyarrow", reason="Parquet needs the extra checkfree[data]")
    message = refusal(DataConfig(name, "https://example.org/texts"))
    assert says(message, "an address, expected a file or folder; * download what is there")


def test_a_file_of_no_size_gives_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of /proc, which have text in them all the same."""
    (tmp_path / "a.txt").write_text("")
    corpus = text(str(tmp_path / "a.txt"), 0.3)
    (tmp_path / "a.txt").write_text("now it has\nsome text\n")
    assert [type(item).__name__ for item in corpus.read()] == ["Skipped"]


def test_large_rows_of_parquet_are_read_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs the extra checkfree[data]")
    files = pytest.importorskip("pyarrow.parquet")
    rows = [f"{number} " + os.urandom(500).hex() for number in range(100)]
    files.write_table(pyarrow.table({"text": rows}), tmp_path / "a.parquet", row_group_size=40)
    sizes = []
    whole = files.ParquetFile.iter_batches

    def iter_batches(self: object, size: int, **words: object) -> object:
        sizes.append(size)
        return whole(self, size, **words)

    monkeypatch.setattr(files.ParquetFile, "iter_batches", iter_batches)

    def read() -> list[str]:
        corpus = parquet(str(tmp_path), "text")
        return [d.text.decode() for d in corpus.read() if isinstance(d, Document)]

    assert read() == rows
    monkeypatch.setattr(tables, "PARQUET_BYTES", 10_000)
    assert read() == rows
    assert sizes[:3] == [1024] * 3 and max(sizes[3:]) < 12


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (PACKED["gzip"], "gzip data, expected a tokenizer.json"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS, * git lfs pull"),
        ('{"model": {}}'.encode("utf-16"), "UTF-16 text, * iconv"),
    ],
)
def test_a_tokenizer_that_is_something_else(tmp_path: Path, content: bytes, told: str) -> None:
    pytest.importorskip("tokenizers", reason="needs the extra checkfree[data]")
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(BadInput) as caught:
        open_tokenizer(str(tmp_path / "t.json"))
    assert says(str(caught.value), f"t.json: {told}")


def test_a_tokenizer_behind_a_mark_of_utf_8(tmp_path: Path) -> None:
    library = pytest.importorskip("tokenizers", reason="needs the extra checkfree[data]")
    raw = library.Tokenizer(library.models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    (tmp_path / "t.json").write_bytes(codecs.BOM_UTF8 + raw.to_str().encode())
    assert open_tokenizer(str(tmp_path / "t.json")).vocabulary == 2

import gzip
import json
import sys

import pytest

from checkfree.core.errors import BadInput
from checkfree.data import corpora
from checkfree.data.corpora import stdlib, text
from checkfree.data.tables import jsonl, parquet


def fill(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def texts(corpus):
    return [d.text.decode() for d in corpus.read()]


def refusal(call):
    with pytest.raises(BadInput) as caught:
        result = call()
        if not isinstance(result, list):
            list(result.read())
    message = str(caught.value)
    assert "\n" not in message
    return message


# The standard library


def test_stdlib_is_source_and_prose_without_tests(tmp_path):
    root = fill(
        tmp_path,
        {
            "abc.py": "abc",
            "LICENSE.txt": "may",
            "json/decoder.py": "decode",
            "json/__pycache__/decoder.txt": "no",
            "test/test_abc.py": "no",
            "unittest/test/x.py": "no",
            "site-packages/torch.py": "no",
            "config-3.12-x/Makefile.py": "no",
            "_sysconfigdata_x.py": "no",
            "latin.py": b"caf\xe9",
            "mathmodule.so": b"\x7fELF",
        },
    )
    found = {d.name: d.text.decode() for d in stdlib(root).read()}
    assert found == {"LICENSE.txt": "may", "abc.py": "abc", "json/decoder.py": "decode"}
    assert list(found) == sorted(found)


def test_stdlib_of_this_python_is_some_megabytes():
    corpus = stdlib()
    documents = {d.name: d.text for d in corpus.read()}
    assert b"class JSONDecoder" in documents["json/decoder.py"]
    assert 5e6 < sum(map(len, documents.values())) <= corpus.size < 40e6
    assert not {"test", "tests", "site-packages"} & {p for n in documents for p in n.split("/")}


def test_a_python_without_sources_is_refused(tmp_path):
    assert "came without the sources" in refusal(lambda: stdlib(tmp_path))


# Text


def test_a_folder_gives_a_document_a_file_in_order_of_names(tmp_path):
    fill(tmp_path, {"b.txt": "two", "a/z.md": "one", ".hidden": "no", "p.png": b"\x89PNG\0\xff"})
    assert [(d.name, d.text) for d in text(str(tmp_path), 0.5).read()] == [
        ("a/z.md", b"one"),
        ("b.txt", b"two"),
    ]


def test_the_end_of_a_lone_file_is_validation(tmp_path):
    fill(tmp_path, {"a.txt": "line one\nline two\nline three\n"})
    train, validation = text(str(tmp_path / "a.txt"), 0.5).read()
    assert (train.text, train.validation) == (b"line one\nline two\n", False)
    assert (validation.text, validation.validation) == (b"line three\n", True)


@pytest.mark.parametrize("share", [0.33, 0.33003, 0.33006, 0.33009])
def test_a_lone_file_without_lines_is_cut_between_characters(tmp_path, share):
    fill(tmp_path, {"a.txt": "☃" * 12_000})
    train, validation = text(str(tmp_path / "a.txt"), share).read()
    assert train.text.decode() + validation.text.decode() == "☃" * 12_000
    assert 0.32 < len(validation.text) / 36_000 < 0.34


def test_a_large_file_comes_in_pieces_that_share_its_name(tmp_path, monkeypatch):
    lines = "".join(f"line {i}\n" for i in range(50))
    fill(tmp_path, {"a.txt": lines, "b.txt": "b"})
    monkeypatch.setattr(corpora, "PIECE_BYTES", 100)
    *pieces, last = text(str(tmp_path), 0.5).read()
    assert "".join(piece.text.decode() for piece in pieces) == lines
    assert all(piece.text.endswith(b"\n") for piece in pieces)
    assert len(pieces) > 2 and {piece.name for piece in pieces} == {"a.txt"}
    assert last.name == "b.txt"


@pytest.mark.parametrize("lone", [True, False])
def test_text_that_is_not_utf8_is_refused_by_name_and_byte(tmp_path, lone):
    path = fill(tmp_path, {"latin.txt": b"caf\xe9 noir\n"}) / ("latin.txt" if lone else "")
    message = refusal(lambda: text(str(path), 0.5))
    assert "latin.txt: byte 0xe9 is not UTF-8" in message


def test_a_missing_path_is_refused(tmp_path):
    assert "data.path is not set" in refusal(lambda: text(None, 0.5))
    assert "nothing there" in refusal(lambda: text(str(tmp_path / "gone"), 0.5))
    assert "no file for data.name text" in refusal(lambda: text(str(tmp_path), 0.5))
    assert "expected .parquet files" in refusal(lambda: parquet(str(tmp_path), "text"))


def test_the_identity_changes_with_the_files(tmp_path):
    fill(tmp_path, {"a.txt": "one"})
    first = text(str(tmp_path), 0.5).identity
    assert text(str(tmp_path), 0.5).identity == first
    fill(tmp_path, {"a.txt": "other"})
    assert text(str(tmp_path), 0.5).identity != first


# JSONL


def rows(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_jsonl_reads_a_file_or_a_folder_plain_or_gzipped(tmp_path):
    fill(tmp_path, {"a.jsonl": rows({"text": "one"}) + "\n" + rows({"text": None, "x": 1})})
    fill(tmp_path, {"b.json.gz": gzip.compress(rows({"text": "twö"}).encode()), "c.csv": "no"})
    assert texts(jsonl(str(tmp_path), "text")) == ["one", "twö"]
    assert texts(jsonl(str(tmp_path / "a.jsonl"), "text")) == ["one"]


def test_jsonl_rows_go_by_content_and_survive_half_a_surrogate(tmp_path):
    fill(tmp_path, {"a.jsonl": r'{"text": "a\ud800b"}'})
    (document,) = jsonl(str(tmp_path), "text").read()
    assert (document.text, document.name) == (b"a?b", None)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{'text': 1}", "not JSON"),
        ("\udcff", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "got list, expected an object with 'text'"),
        ('{"body": "x", "url": "y"}', "no column 'text', it has body, url; set data.text_field"),
        ('{"text": 3}', "column 'text' holds int, expected text"),
    ],
)
def test_a_bad_line_is_refused_by_file_and_number(tmp_path, line, complaint):
    content = rows({"text": "good"}).encode() + line.encode("utf-8", "surrogateescape")
    fill(tmp_path, {"a.jsonl": content})
    message = refusal(lambda: jsonl(str(tmp_path), "text"))
    assert "a.jsonl line 2: " in message
    assert complaint in message


@pytest.mark.parametrize("cut", [0, -6])
def test_a_broken_gzip_file_is_refused(tmp_path, cut):
    whole = gzip.compress(rows({"text": "one"}).encode())
    fill(tmp_path, {"a.jsonl.gz": whole[:cut] if cut else b"plain"})
    assert "expected a whole gzip file" in refusal(lambda: jsonl(str(tmp_path), "text"))


# Parquet


def write_parquet(path, columns):
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs the extra checkfree[data]")
    parquet_files = pytest.importorskip("pyarrow.parquet")
    parquet_files.write_table(pyarrow.table(columns), path, row_group_size=2)


def test_parquet_reads_all_row_groups_of_all_files(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"text": ["a", "b", None, "c"], "n": [1, 2, 3, 4]})
    write_parquet(tmp_path / "b.parquet", {"text": ["d"]})
    assert texts(parquet(str(tmp_path), "text")) == ["a", "b", "c", "d"]


def test_parquet_without_the_column_is_refused_with_those_it_has(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"body": ["a"], "n": [1]})
    assert "no column 'text', it has body, n" in refusal(lambda: parquet(str(tmp_path), "text"))
    assert "holds int, expected text" in refusal(lambda: parquet(str(tmp_path), "n"))


def test_what_is_not_parquet_is_refused(tmp_path):
    fill(tmp_path, {"a.parquet": "text"})
    assert "a.parquet: not a Parquet file" in refusal(lambda: parquet(str(tmp_path), "text"))


def test_without_pyarrow_the_error_names_the_command(tmp_path, monkeypatch):
    fill(tmp_path, {"a.parquet": "text"})
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    message = refusal(lambda: parquet(str(tmp_path), "text"))
    assert "pyarrow, which is not installed; run: pip install 'checkfree[data]'" in message

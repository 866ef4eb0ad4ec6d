import errno
import gzip
import json
import os
import socket
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from checkfree.core.errors import BadInput
from checkfree.core.text_counts import Amount, TextCounts
from checkfree.data import corpora, tables
from checkfree.data.corpora import stdlib, text
from checkfree.data.documents import Document, place
from checkfree.data.tables import jsonl, parquet


def fill(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def documents(corpus):
    return [found for found in corpus.read() if isinstance(found, Document)]


def texts(corpus):
    return [d.text.decode() for d in documents(corpus)]


def counted(corpus):
    counts = TextCounts()
    list(place(corpus.read(), 0.5, counts))
    return counts


def skipped(corpus):
    return {reason: amount.documents for reason, amount in counted(corpus).skipped.items()}


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
    found = {d.name: d.text.decode() for d in documents(stdlib(root))}
    assert found == {"LICENSE.txt": "may", "abc.py": "abc", "json/decoder.py": "decode"}
    assert list(found) == sorted(found)
    assert skipped(stdlib(root)) == {"not UTF-8": 1}


def test_stdlib_of_this_python_is_some_megabytes():
    corpus = stdlib()
    found = {d.name: d.text for d in documents(corpus)}
    assert b"class JSONDecoder" in found["json/decoder.py"]
    assert 5e6 < sum(map(len, found.values())) <= corpus.size < 40e6
    assert not {"test", "tests", "site-packages"} & {p for n in found for p in n.split("/")}


def test_a_python_without_sources_is_refused(tmp_path):
    assert "came without the sources" in refusal(lambda: stdlib(tmp_path))


# Text


def test_a_folder_gives_a_document_a_file_in_order_of_names(tmp_path):
    fill(tmp_path, {"b.txt": "two", "a/z.md": "one", ".hidden": "no", "p.png": b"\x89PNG\0\xff"})
    assert [(d.name, d.text) for d in documents(text(str(tmp_path), 0.5))] == [
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


# What is left out is counted


def test_what_a_folder_of_text_leaves_out_is_counted(tmp_path):
    fill(tmp_path, {"a.txt": "one", "b.txt": "two", "c.txt": "one", "none.txt": ""})
    fill(tmp_path, {".hidden": "no", ".git/config": "no", "__pycache__/a.pyc": "no"})
    fill(tmp_path, {"p.png": b"\x89PNG\0\xff", "q.bin": b"\0"})
    (tmp_path / "nowhere").symlink_to("gone")
    (tmp_path / "round").symlink_to("round")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listening, working_in(tmp_path):
        listening.bind("socket")
    found = counted(text(str(tmp_path), 0.5))
    assert found.read == Amount(2, 6)
    assert found.skipped == {
        "hidden": Amount(3, 0),
        "binary": Amount(2, 7),
        "repeated": Amount(1, 3),
        "empty": Amount(1, 0),
        "broken link": Amount(2, 0),
        "special": Amount(2, 0),
    }


@contextmanager
def working_in(folder):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def test_what_a_folder_of_rows_leaves_out_is_counted(tmp_path):
    fill(tmp_path, {"a.jsonl": rows({"text": "one"}, {"text": None}, {"text": ""}) + "\n"})
    fill(tmp_path, {"b.jsonl": "", "c.jsonl.gz": gzip.compress(b"\n"), "d.jsonl.zst": "lost"})
    assert skipped(jsonl(str(tmp_path), "text")) == {
        "null": 1,
        "empty": 3,
        "of another name": 1,
    }


def test_half_a_surrogate_is_counted(tmp_path):
    fill(tmp_path, {"a.jsonl": r'{"text": "a\ud800b\udc00"}' + "\n" + rows({"text": "good"})})
    assert counted(jsonl(str(tmp_path), "text")).changed == {"replaced": Amount(1, 2)}


# Links


def names(corpus):
    return [d.name for d in documents(corpus)]


def test_links_to_folders_are_followed(tmp_path):
    fill(tmp_path, {"text/a.txt": "one", "other/b.txt": "two", "other/deep/c.txt": "three"})
    (tmp_path / "text/more").symlink_to(tmp_path / "other", target_is_directory=True)
    corpus = text(str(tmp_path / "text"), 0.5)
    assert names(corpus) == ["a.txt", "more/b.txt", "more/deep/c.txt"]
    assert skipped(corpus) == {}


def test_a_folder_may_be_a_link_itself(tmp_path):
    fill(tmp_path, {"text/a.txt": "one"})
    (tmp_path / "link").symlink_to("text")
    assert names(text(str(tmp_path / "link"), 0.5)) == ["a.txt"]


def test_links_in_a_circle_end(tmp_path):
    fill(tmp_path, {"text/a.txt": "one", "text/sub/b.txt": "two", "aside/c.txt": "three"})
    (tmp_path / "text/sub/up").symlink_to("..")
    (tmp_path / "text/self").symlink_to(".")
    (tmp_path / "text/aside").symlink_to("../aside")
    (tmp_path / "aside/back").symlink_to("../text/sub")
    assert names(text(str(tmp_path / "text"), 0.5)) == ["a.txt", "aside/c.txt", "sub/b.txt"]


def test_a_link_to_a_folder_around_it_is_not_followed(tmp_path):
    fill(tmp_path, {"deep/text/a.txt": "one", "deep/b.txt": "two", "c.txt": "three"})
    (tmp_path / "deep/text/up").symlink_to("..")
    (tmp_path / "deep/text/further").symlink_to(tmp_path)
    corpus = text(str(tmp_path / "deep/text"), 0.5)
    assert names(corpus) == ["a.txt"]
    assert skipped(corpus) == {"link to a folder around it": 2}


@pytest.mark.parametrize("link", ["a", "z"])
def test_a_file_has_its_own_name_rather_than_that_of_a_link(tmp_path, link):
    fill(tmp_path, {"m/text.txt": "one"})
    (tmp_path / link).symlink_to("m")
    assert names(text(str(tmp_path), 0.5)) == ["m/text.txt"]


def test_a_file_that_a_linked_folder_has_too_keeps_its_name(tmp_path):
    fill(tmp_path, {"text/m/a.txt": "one", "other/b.txt": "two"})
    os.link(tmp_path / "text/m/a.txt", tmp_path / "other/a.txt")
    (tmp_path / "text/first").symlink_to("../other")
    assert names(text(str(tmp_path / "text"), 0.5)) == ["first/b.txt", "m/a.txt"]


@pytest.mark.parametrize("link", [os.link, os.symlink])
@pytest.mark.parametrize("read", ["text", "jsonl", "parquet"])
def test_a_file_of_two_names_is_read_once(tmp_path, link, read):
    if read == "parquet":
        write_parquet(tmp_path / "b.parquet", {"text": ["one"]})
    else:
        fill(tmp_path, {f"b.{read}": rows({"text": "one"})})
    link(tmp_path / f"b.{read}", tmp_path / f"a.{read}")
    corpus = {"text": lambda p, _: text(p, 0.5), "jsonl": jsonl, "parquet": parquet}[read](
        str(tmp_path), "text"
    )
    assert len(documents(corpus)) == 1
    assert skipped(corpus) == {"the same file again": 1}


def test_the_standard_library_has_no_links_to_follow(tmp_path):
    fill(tmp_path, {"lib/a.py": "one", "aside/b.py": "two"})
    (tmp_path / "lib/more").symlink_to("../aside")
    assert names(stdlib(tmp_path / "lib")) == ["a.py"]


# Text that repeats itself


@pytest.mark.parametrize("lone", [True, False])
def test_a_file_of_repeated_lines_keeps_all_its_pieces(tmp_path, monkeypatch, lone):
    monkeypatch.setattr(corpora, "PIECE_BYTES", 64)
    fill(tmp_path, {"text/a.txt": "the same line\n" * 100})
    corpus = text(str(tmp_path / "text" / ("a.txt" if lone else "")), 0.2)
    assert sum(len(placed.text) for placed in place(corpus.read(), 0.5)) == 1400
    assert skipped(corpus) == {}


def test_equal_files_of_several_pieces_are_kept_once(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "PIECE_BYTES", 64)
    fill(tmp_path, {"a.txt": "the same line\n" * 100, "b.txt": "the same line\n" * 100})
    found = counted(text(str(tmp_path), 0.2))
    assert (found.read.bytes, found.skipped["repeated"].bytes) == (1400, 1400)


def test_only_the_identity_of_large_files_is_another_than_before(tmp_path, monkeypatch):
    fill(tmp_path, {"a.txt": "one line\n" * 100})
    stat = (tmp_path / "a.txt").stat()
    before = f"{tmp_path / 'a.txt'} a.txt {stat.st_size} {stat.st_mtime_ns}"
    assert text(str(tmp_path), 0.5).identity == before
    monkeypatch.setattr(corpora, "PIECE_BYTES", 64)
    assert text(str(tmp_path), 0.5).identity != before


# What can't be read


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (os.mkfifo, "a FIFO, expected a file or folder"),
        (lambda path: os.symlink("gone", path), "a link that leads nowhere"),
        (lambda path: os.symlink(path, path), "a link that leads nowhere"),
        (lambda path: os.symlink("/dev/null", path), "a device, expected a file or folder"),
    ],
)
@pytest.mark.parametrize("read", [jsonl, parquet, lambda path, _: text(path, 0.5)])
def test_a_path_that_is_no_file_is_refused_for_what_it_is(tmp_path, make, complaint, read):
    make(tmp_path / "it")
    assert complaint in refusal(lambda: read(str(tmp_path / "it"), "text"))


@pytest.mark.parametrize(
    "path", ["~nobody-of-that-name/x", "a\0b", "x" * 5000, "a.txt/b.txt"], ids=len
)
def test_a_path_that_can_be_nowhere_is_refused(tmp_path, monkeypatch, path):
    fill(tmp_path, {"a.txt": "one"})
    monkeypatch.chdir(tmp_path)
    refusal(lambda: text(path, 0.5))


READS = {
    "text": ("a.txt", "one\ntwo\n", lambda path: text(path, 0.5)),
    "jsonl": ("a.jsonl", '{"text": "one"}\n{"text": "two"}\n', lambda path: jsonl(path, "text")),
    "gzip": (
        "a.jsonl.gz",
        gzip.compress(b'{"text": "one"}\n'),
        lambda path: jsonl(path, "text"),
    ),
}
lone_or_not = pytest.mark.parametrize("lone", [True, False])
each_kind = pytest.mark.parametrize("kind", READS)


def opened(tmp_path, kind, lone):
    name, content, read = READS[kind]
    fill(tmp_path, {f"folder/{name}": content, f"folder/b{name[1:]}": content})
    path = tmp_path / "folder" / name
    return path, read(str(path if lone else path.parent))


@lone_or_not
@each_kind
def test_a_file_that_is_gone_when_it_is_read_is_named(tmp_path, kind, lone):
    path, corpus = opened(tmp_path, kind, lone)
    path.unlink()
    message = refusal(lambda: corpus)
    assert str(path) in message and "No such file" in message and "before" in message


@lone_or_not
@each_kind
def test_a_file_that_has_become_a_folder_is_named(tmp_path, kind, lone):
    path, corpus = opened(tmp_path, kind, lone)
    path.unlink()
    path.mkdir()
    message = refusal(lambda: corpus)
    assert str(path) in message and "Is a directory" in message


@lone_or_not
def test_a_text_that_is_cut_after_it_was_found_is_named(tmp_path, lone):
    path, corpus = opened(tmp_path, "text", lone)
    path.write_text("o")
    assert f"{path} from byte" in refusal(lambda: corpus)


@contextmanager
def nobody():
    """Without the rights of root, where the tests have them."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@lone_or_not
@each_kind
def test_a_file_that_may_not_be_read_is_named(tmp_path, kind, lone):
    path, corpus = opened(tmp_path, kind, lone)
    path.chmod(0)
    with nobody():
        message = refusal(lambda: corpus)
    assert str(path) in message and "Permission denied" in message


def test_a_folder_that_may_not_be_read_is_named():
    with tempfile.TemporaryDirectory() as made:  # pytest's own may not be entered by nobody
        folder = fill(Path(made), {"a.txt": "one", "closed/b.txt": "two"})
        folder.chmod(0o755)
        (folder / "closed").chmod(0)
        with nobody():
            message = refusal(lambda: text(made, 0.5))
        (folder / "closed").chmod(0o755)
    assert "closed: cannot be read (Permission denied)" in message


@pytest.mark.parametrize(("kind", "place"), [("text", "from byte 1100 on"), ("jsonl", "line 3")])
def test_a_disk_that_fails_in_the_middle_is_told_with_the_place(tmp_path, monkeypatch, kind, place):
    monkeypatch.setattr(corpora, "PIECE_BYTES", 1000)
    name, _, read = READS[kind]
    line = '{"text": "one"}' if kind == "jsonl" else "x" * 99
    path = fill(tmp_path, {name: f"{line}\n" * 100}) / name
    real = Path.open

    class Failing:
        def __init__(self, file):
            self.file, self.reads = file, 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def failing(self, size):
            self.reads += 1
            if self.reads > 2 and size != corpora.LINE_BYTES:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return self.file.readline(size) if kind == "jsonl" else self.file.read(size)

        read = readline = failing

    corpus = read(str(path))
    monkeypatch.setattr(Path, "open", lambda self, *words: Failing(real(self, *words)))
    message = refusal(lambda: corpus)
    assert f"{path} {place}: cannot be read (Input/output error)" in message


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
    (document,) = documents(jsonl(str(tmp_path), "text"))
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


@pytest.mark.parametrize("at", [30, 400, -6, -2])
def test_a_flipped_byte_of_a_gzip_file_is_told_with_its_line(tmp_path, at):
    lines = "".join(json.dumps({"text": f"{i} " + "x" * (i % 7)}) + "\n" for i in range(200))
    content = bytearray(gzip.compress(lines.encode(), mtime=0))
    content[at] ^= 0x55
    path = fill(tmp_path, {"a.jsonl.gz": bytes(content)}) / "a.jsonl.gz"
    message = refusal(lambda: jsonl(str(tmp_path), "text"))
    assert message.startswith(f"{path} line ")


def test_a_line_that_is_none_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "LINE_BYTES", 1000)
    content = rows({"text": "good"}) + json.dumps([{"text": "one"}] * 1000)
    fill(tmp_path, {"a.jsonl.gz": gzip.compress(content.encode())})
    assert "a.jsonl.gz line 2: over 1000 bytes" in refusal(lambda: jsonl(str(tmp_path), "text"))


# Parquet


def write_parquet(path, columns, **options):
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs the extra checkfree[data]")
    parquet_files = pytest.importorskip("pyarrow.parquet")
    parquet_files.write_table(pyarrow.table(columns), path, row_group_size=2, **options)


def test_parquet_reads_all_row_groups_of_all_files(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"text": ["a", "b", None, "c"], "n": [1, 2, 3, 4]})
    write_parquet(tmp_path / "b.parquet", {"text": ["d"]})
    assert texts(parquet(str(tmp_path), "text")) == ["a", "b", "c", "d"]


def test_parquet_without_the_column_is_refused_with_those_it_has(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"body": ["a"], "n": [1]})
    assert "no column 'text', it has body, n" in refusal(lambda: parquet(str(tmp_path), "text"))
    assert "row 0: column 'n' holds int" in refusal(lambda: parquet(str(tmp_path), "n"))


def test_a_damaged_page_is_told_with_its_row_group(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [f"the text of row {i} stands here" for i in range(4)]
    write_parquet(path, {"text": rows}, write_page_checksum=True, compression="none")
    content = bytearray(path.read_bytes())
    content[content.index(b"row 2")] ^= 1
    path.write_bytes(bytes(content))
    message = refusal(lambda: parquet(str(tmp_path), "text"))
    assert f"{path} row group 1: cannot be read" in message


def test_text_of_a_page_that_is_not_utf8_is_told_with_its_row_group(tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path, {"text": [f"the text of row {i}" for i in range(4)]}, compression="none")
    path.write_bytes(path.read_bytes().replace(b"row 3", b"row \xff"))
    message = refusal(lambda: parquet(str(tmp_path), "text"))
    assert f"{path} row group 1: cannot be read" in message and "utf-8" in message


def test_a_parquet_file_that_may_not_be_read_is_named(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"text": ["a"]})
    corpus = parquet(str(tmp_path), "text")
    (tmp_path / "a.parquet").unlink()
    message = refusal(lambda: corpus)
    assert f"{tmp_path / 'a.parquet'}: cannot be read (" in message


def test_nulls_are_counted(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"text": ["a", None, None, "", "b"]})
    assert skipped(parquet(str(tmp_path), "text")) == {"null": 2, "empty": 1}


def test_what_is_not_parquet_is_refused(tmp_path):
    fill(tmp_path, {"a.parquet": "text"})
    assert "a.parquet: plain text, expected a Parquet file" in refusal(
        lambda: parquet(str(tmp_path), "text")
    )


def test_without_pyarrow_the_error_names_the_command(tmp_path, monkeypatch):
    fill(tmp_path, {"a.parquet": "text"})
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    message = refusal(lambda: parquet(str(tmp_path), "text"))
    assert "pyarrow, which is not installed; run: pip install 'checkfree[data]'" in message

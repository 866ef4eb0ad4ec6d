import dataclasses
import errno
import gzip
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import checkfree
from checkfree.core.config import DataConfig
from checkfree.core.errors import BadInput, RunFailed
from checkfree.core.text_counts import Amount, TextCounts
from checkfree.data import open_data, opening
from checkfree.data.cache import cached_split, memory_split
from checkfree.data.documents import Document, Skipped, place
from checkfree.data.tokenizers import open_tokenizer
from checkfree.data.tokens import sidecar_path

DOCUMENTS = [Document(f"document {i}, some text of it".encode()) for i in range(40)]
GROUP = 100  # bytes: some four documents


class Killed(Exception):
    pass


def reader(documents=DOCUMENTS, dies_at=None):
    def read(counts):
        for number, placed in enumerate(place(documents, 0.3, counts)):
            if number == dies_at:
                raise Killed
            yield placed

    return read


class Counting:
    """The bytes tokenizer, and which texts it was given."""

    def __init__(self):
        plain = open_tokenizer("bytes")
        self.texts = []

        def encode(texts):
            self.texts.extend(texts)
            return plain.encode(texts)

        self.tokenizer = dataclasses.replace(plain, encode=encode)


def same(a, b):
    return (
        np.array_equal(a.train, b.train)
        and np.array_equal(a.validation, b.validation)
        and (a.documents, a.content_hash) == (b.documents, b.content_hash)
    )


WHOLE = memory_split(reader(), open_tokenizer("bytes"))


def killed(folder, dies_at):
    counting = Counting()
    with pytest.raises(Killed):
        cached_split(folder, reader(dies_at=dies_at), counting.tokenizer, GROUP)
    return counting.texts


def finished(folder, documents=DOCUMENTS):
    counting = Counting()
    split = cached_split(folder, reader(documents), counting.tokenizer, GROUP)
    return split, counting.texts


def test_the_cache_holds_the_same_split_as_memory(tmp_path):
    split, texts = finished(tmp_path / "c")
    assert same(split, WHOLE)
    assert texts == [document.text for document in DOCUMENTS]


def test_a_second_opening_tokenizes_and_reads_nothing(tmp_path):
    finished(tmp_path)

    def read(counts):
        raise AssertionError("read again")

    counting = Counting()
    assert same(cached_split(tmp_path, read, counting.tokenizer), WHOLE)
    assert counting.texts == []


@pytest.mark.parametrize("dies_at", [0, 1, 4, 5, 23, 39])
def test_a_killed_tokenization_goes_on_where_it_was(tmp_path, dies_at):
    before = killed(tmp_path, dies_at)
    split, after = finished(tmp_path)
    assert same(split, WHOLE)
    assert Counter(before + after) == Counter(document.text for document in DOCUMENTS)


def test_it_may_be_killed_any_number_of_times(tmp_path):
    for dies_at in (6, 6, 20, 12, 33):
        killed(tmp_path, dies_at)
    assert same(finished(tmp_path)[0], WHOLE)


KILLED = """
import os, signal, sys
from pathlib import Path
from checkfree.data.cache import cached_split
from checkfree.data.documents import Document, place
from checkfree.data.tokenizers import open_tokenizer

def documents():
    for i in range(40):
        if i == 23:
            os.kill(os.getpid(), signal.SIGKILL)
        yield Document(f"document {i}, some text of it".encode())

def read(counts):
    return place(documents(), 0.3, counts)

cached_split(Path(sys.argv[1]), read, open_tokenizer("bytes"), 100)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_real_kill_leaves_what_was_synced(tmp_path):
    root = Path(checkfree.__file__).parents[1]
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(command, cwd=root, timeout=120)
    assert done.returncode == -signal.SIGKILL
    split, after = finished(tmp_path)
    assert same(split, WHOLE)
    assert len(DOCUMENTS) - 23 <= len(after) <= len(DOCUMENTS) - 20


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
def test_only_one_process_tokenizes_at_a_time(tmp_path):
    import fcntl

    def read(counts):
        with (tmp_path / "lock").open("ab") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return reader()(counts)

    cached_split(tmp_path, read, open_tokenizer("bytes"))
    with (tmp_path / "lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("name", ["train.bin", "validation.bin.index"])
def test_what_was_appended_but_not_synced_is_cut_off(tmp_path, name):
    killed(tmp_path, 23)
    with (tmp_path / name).open("ab") as file:
        file.write(b"half a docu")
    split, after = finished(tmp_path)
    assert same(split, WHOLE)
    assert len(after) < len(DOCUMENTS)


@pytest.mark.parametrize("name", ["train.bin", "train.bin.index", "validation.bin"])
def test_with_less_on_the_disk_than_promised_it_starts_again(tmp_path, name):
    killed(tmp_path, 23)
    (tmp_path / name).write_bytes(b"")
    split, after = finished(tmp_path)
    assert same(split, WHOLE)
    assert len(after) == len(DOCUMENTS)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"train": 1, "validation": 2}'])
def test_with_a_progress_it_cannot_read_it_starts_again(tmp_path, content):
    killed(tmp_path, 23)
    (tmp_path / "progress.json").write_text(content)
    assert same(finished(tmp_path)[0], WHOLE)


@pytest.mark.parametrize("side", ["train", "validation"])
@pytest.mark.parametrize(("field", "by"), [("tokens", -1), ("documents", -1), ("documents", 1)])
def test_with_a_progress_that_fits_nothing_it_starts_again(tmp_path, side, field, by):
    killed(tmp_path, 23)
    progress = json.loads((tmp_path / "progress.json").read_text())
    progress[side][field] += by
    (tmp_path / "progress.json").write_text(json.dumps(progress))
    split, texts = finished(tmp_path)
    assert same(split, WHOLE) and len(texts) == len(DOCUMENTS)


@pytest.mark.parametrize("changed", [DOCUMENTS[1:], DOCUMENTS[:3], [Document(b"new"), *DOCUMENTS]])
def test_if_the_text_changed_meanwhile_it_starts_again(tmp_path, changed):
    killed(tmp_path, 23)
    split, texts = finished(tmp_path, changed)
    assert same(split, memory_split(reader(changed), open_tokenizer("bytes")))
    assert texts == [document.text for document in changed]


def test_starting_again_takes_back_the_old_progress_first(tmp_path):
    killed(tmp_path, 23)
    texts = iter([reader([Document(b"new")]), reader([Document(b"new")], dies_at=0)])
    with pytest.raises(Killed):
        cached_split(tmp_path, lambda counts: next(texts)(counts), open_tokenizer("bytes"))
    # Else what is appended to the emptied files could pass for the old text.
    assert json.loads((tmp_path / "progress.json").read_text())["documents"] == 0


@pytest.mark.parametrize("left", ["train.bin.json", "both"])
def test_killed_among_the_sidecars_it_only_writes_them(tmp_path, left):
    finished(tmp_path)
    sides = {
        side: {"tokens": len(tokens), "documents": documents}
        for side, tokens, documents in zip(
            ("train", "validation"), (WHOLE.train, WHOLE.validation), WHOLE.documents, strict=True
        )
    }
    progress = {"documents": len(DOCUMENTS), "corpus_hash": WHOLE.content_hash, **sides}
    progress["counts"] = TextCounts().plain()
    (tmp_path / "progress.json").write_text(json.dumps(progress))
    if left != "both":
        (tmp_path / "validation.bin.json").unlink()
    split, texts = finished(tmp_path)
    assert same(split, WHOLE) and texts == []


def test_a_truncated_complete_file_is_refused(tmp_path):
    finished(tmp_path)
    path = tmp_path / "train.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadInput, match=r"train.bin: truncated, got .* delete it"):
        finished(tmp_path)


def test_a_deleted_file_is_refused(tmp_path):
    finished(tmp_path)
    (tmp_path / "train.bin").unlink()
    with pytest.raises(BadInput, match=r"train.bin: no such file"):
        finished(tmp_path)


def test_an_empty_side_is_fine_for_the_cache(tmp_path):
    split, _ = finished(tmp_path, [])
    assert (len(split.train), len(split.validation), split.documents) == (0, 0, (0, 0))


def test_a_cache_that_cannot_be_written_ends_in_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunFailed, match=r"data\.cache") as caught:
        finished(tmp_path / "file" / "cache")
    assert "\n" not in str(caught.value)


# Whose error it is


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_full_disk_is_the_cache_s(tmp_path, monkeypatch, name):
    monkeypatch.setattr(Path if name == "replace" else os, name, full)
    with pytest.raises(RunFailed, match=r"No space left on device.*data\.cache"):
        finished(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_file_that_may_not_grow_is_the_cache_s(tmp_path, size):
    import resource

    documents = [Document(b"x" * 999 + b"%d" % number) for number in range(20)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:  # what is left in a buffer is refused again when the file is closed
        with pytest.raises(RunFailed, match=r"File too large.*data\.cache"):
            cached_split(tmp_path, reader(documents), open_tokenizer("bytes"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(finished(tmp_path, documents)[1]) == len(documents)


@pytest.mark.parametrize("dies_at", [0, 23])
def test_what_a_corpus_raises_is_not_the_cache_s(tmp_path, dies_at):
    def read(counts):
        for number, placed in enumerate(reader()(counts)):
            if number == dies_at:
                raise PermissionError(errno.EACCES, "the corpus's own")
            yield placed

    with pytest.raises(PermissionError, match="the corpus's own"):
        cached_split(tmp_path, read, open_tokenizer("bytes"), GROUP)
    assert same(finished(tmp_path)[0], WHOLE)


def test_what_a_tokenizer_refuses_is_not_the_cache_s(tmp_path):
    def encode(texts):
        raise BadInput("no tokens")

    refusing = dataclasses.replace(open_tokenizer("bytes"), encode=encode)
    with pytest.raises(BadInput, match="no tokens"):
        cached_split(tmp_path, reader(), refusing)


# Counts


def with_losses(dies_at=None):
    """Documents with all that can become of them."""

    def corpus():
        yield Skipped("hidden", 2)
        for number, document in enumerate(DOCUMENTS):
            yield Document(document.text + b"\0" * (number % 3), replaced=number % 2)
            if number == dies_at:
                raise Killed
            if number % 5 == 0:
                yield Document(b"")
                yield Skipped("null")
        yield Skipped("at the end", bytes=7)

    return lambda counts: place(corpus(), 0.3, counts)


COUNTED = memory_split(with_losses(), open_tokenizer("bytes")).counts


def test_all_of_a_corpus_is_counted():
    size = sum(len(document.text) + number % 3 for number, document in enumerate(DOCUMENTS))
    assert COUNTED.read == Amount(len(DOCUMENTS), size)
    assert COUNTED.skipped == {
        "hidden": Amount(2, 0),
        "empty": Amount(8, 0),
        "null": Amount(8, 0),
        "at the end": Amount(1, 7),
    }
    assert COUNTED.changed == {"replaced": Amount(20, 20)}
    assert COUNTED.separators == sum(number % 3 for number in range(len(DOCUMENTS)))


def test_whoever_finds_the_tokens_in_the_cache_finds_the_counts(tmp_path):
    for _ in range(2):
        split = cached_split(tmp_path, with_losses(), open_tokenizer("bytes"), GROUP)
        assert split.counts == COUNTED


@pytest.mark.parametrize("dies_at", [0, 4, 23, 39])
def test_a_killed_tokenization_counts_nothing_twice(tmp_path, dies_at):
    for _ in range(2):
        with pytest.raises(Killed):
            cached_split(tmp_path, with_losses(dies_at), open_tokenizer("bytes"), GROUP)
    assert cached_split(tmp_path, with_losses(), open_tokenizer("bytes"), GROUP).counts == COUNTED


def test_a_text_that_changed_is_counted_anew(tmp_path):
    with pytest.raises(Killed):
        cached_split(tmp_path, with_losses(23), open_tokenizer("bytes"), GROUP)
    counts = finished(tmp_path, DOCUMENTS[1:])[0].counts
    assert counts.read.documents == len(DOCUMENTS) - 1 and not counts.skipped
    assert counts.separators == 0


def test_no_more_documents_are_counted_than_asked_for(tmp_path):
    def read(counts):
        return itertools.islice(with_losses()(counts), 6)

    for folder in ("a", "a", "b"):
        counts = cached_split(tmp_path / folder, read, open_tokenizer("bytes"), GROUP).counts
        assert counts.read.documents == 6
        assert counts.skipped["empty"].documents == 1


def test_a_cache_of_a_version_that_did_not_count_is_still_good(tmp_path):
    finished(tmp_path)
    (tmp_path / "counts.json").unlink()
    split, texts = finished(tmp_path)
    assert same(split, WHOLE) and split.counts is None and texts == []


def test_half_a_cache_of_a_version_that_did_not_count_is_begun_anew(tmp_path):
    killed(tmp_path, 23)
    progress = json.loads((tmp_path / "progress.json").read_text())
    del progress["counts"]
    (tmp_path / "progress.json").write_text(json.dumps(progress))
    split, _ = finished(tmp_path)
    assert same(split, WHOLE) and split.counts.read.documents == len(DOCUMENTS)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"read": 3}', '{"separators": -1}', '{"skipped": {"a": []}}']
)
def test_counts_that_are_none_are_refused(tmp_path, content):
    finished(tmp_path)
    (tmp_path / "counts.json").write_text(content)
    with pytest.raises(BadInput, match=r"counts\.json: no counts of a text .*delete the folder"):
        finished(tmp_path)


# A cache that is not what it should be


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocabulary", 257),
        ("separator", 1),
        ("separator", None),
        ("tokenizer", "byte"),
        ("content_hash", "0" * 64),
        ("content_hash", None),
    ],
)
def test_a_sidecar_that_is_not_the_tokenizer_s_is_refused(tmp_path, field, value):
    finished(tmp_path)
    path = sidecar_path(tmp_path / "validation.bin")
    fields = {**json.loads(path.read_text()), field: value}
    path.write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))
    with pytest.raises(BadInput, match=rf"validation\.bin\.json: {field} is .*delete the folder"):
        finished(tmp_path)


def test_an_index_that_is_gone_is_missed(tmp_path):
    finished(tmp_path)
    (tmp_path / "train.bin.index").unlink()
    with pytest.raises(BadInput, match=r"train\.bin\.index: no such file"):
        finished(tmp_path)


# Through open_data


def config(tmp_path, **changes):
    source = tmp_path / "rows.jsonl"
    if not source.exists():
        source.write_text("".join(json.dumps({"text": d.text.decode()}) + "\n" for d in DOCUMENTS))
    fields = {"name": "jsonl", "path": str(source), "cache": str(tmp_path / "cache")}
    return DataConfig(**fields, validation_share=0.3, **changes)


def opened(config):
    return open_data(config, context=8, batch=2, seed=0)


def test_small_bytes_stay_in_memory_and_large_ones_give_the_same(tmp_path, monkeypatch):
    small = opened(config(tmp_path))
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(opening, "MEMORY_BYTES", 0)
    large = opened(config(tmp_path))
    assert isinstance(large.split.train, np.memmap)
    assert same(small.split, large.split) and small.describe() == large.describe()
    assert small.train(3, 1).equal(large.train(3, 1))


def test_each_split_has_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "MEMORY_BYTES", 0)
    for documents, _ in itertools.product((None, 20), range(2)):
        opened(config(tmp_path, documents=documents))
    assert len(list((tmp_path / "cache").iterdir())) == 2
    opened(dataclasses.replace(config(tmp_path), validation_share=0.4))
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_a_token_file_of_the_cache_is_a_bin(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "MEMORY_BYTES", 0)
    data = opened(config(tmp_path))
    (train,) = (tmp_path / "cache").glob("*/train.bin")
    again = opened(DataConfig("bin", str(train), validation_share=0.3))
    assert again.train_tokens + again.validation_tokens == data.train_tokens
    assert again.content_hash == data.content_hash and again.split.tokenizer == "bytes"


def test_a_damaged_file_is_told_and_what_was_tokenized_before_it_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "MEMORY_BYTES", 0)
    rows = config(tmp_path)
    content = bytearray(gzip.compress((tmp_path / "rows.jsonl").read_bytes(), mtime=0))
    content[-6] ^= 1  # of its checksum: all lines are there
    (tmp_path / "rows.jsonl.gz").write_bytes(bytes(content))
    with pytest.raises(BadInput, match=r"rows\.jsonl\.gz line 41: .*whole gzip file"):
        opened(dataclasses.replace(rows, path=str(tmp_path / "rows.jsonl.gz")))


def test_the_folder_of_older_versions_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "MEMORY_BYTES", 0)
    opened(config(tmp_path))
    path = tmp_path / "rows.jsonl"
    stat = path.stat()
    files = f"text\n{path} rows.jsonl {stat.st_size} {stat.st_mtime_ns}"
    key = "\n".join(["jsonl", files, "bytes", "0.3", "None"])
    digest = hashlib.sha256(key.encode()).hexdigest()[:24]
    assert [f.name for f in (tmp_path / "cache").iterdir()] == [f"tokens-{digest}"]


def test_the_records_have_the_counts_and_the_cache_tells_the_same(tmp_path, monkeypatch):
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(8):
        (texts / f"{number}.txt").write_text(f"text {number} " * 9)
    (texts / "p.png").write_bytes(b"\0\0")
    here = DataConfig("text", str(texts), cache=str(tmp_path / "cache"), validation_share=0.5)
    small = opened(here).text()
    monkeypatch.setattr(opening, "MEMORY_BYTES", 0)
    for _ in range(2):
        assert opened(here).text() == small
    assert small["skipped"] == {"binary": {"documents": 1, "bytes": 2}}
    assert small["read"]["documents"] == 8


def test_a_text_without_room_tells_what_was_skipped(tmp_path):
    (tmp_path / "p.png").write_bytes(b"\0\0")
    with pytest.raises(BadInput, match=r"skipped 1 binary \(2 B\)") as caught:
        opened(DataConfig("text", str(tmp_path), cache=str(tmp_path / "cache")))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("path", ["~nobody-of-that-name/cache", "a\0b"])
def test_a_cache_that_can_be_nowhere_ends_in_one_line(tmp_path, monkeypatch, path):
    monkeypatch.setattr(opening, "MEMORY_BYTES", 0)
    with pytest.raises((BadInput, RunFailed), match=r"data\.cache") as caught:
        opened(dataclasses.replace(config(tmp_path), cache=path))
    assert "\n" not in str(caught.value)

import dataclasses
import itertools
import json
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
from checkfree.data import open_data, opening
from checkfree.data.cache import cached_split, memory_split
from checkfree.data.documents import Document, place
from checkfree.data.tokenizers import open_tokenizer

DOCUMENTS = [Document(f"document {i}, some text of it".encode()) for i in range(40)]
GROUP = 100  # bytes: some four documents


class Killed(Exception):
    pass


def reader(documents=DOCUMENTS, dies_at=None):
    def read():
        for number, placed in enumerate(place(documents, 0.3)):
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


WHOLE = memory_split(reader()(), open_tokenizer("bytes"))


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

    def read():
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

cached_split(Path(sys.argv[1]), lambda: place(documents(), 0.3), open_tokenizer("bytes"), 100)
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

    def read():
        with (tmp_path / "lock").open("ab") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return reader()()

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


@pytest.mark.parametrize("changed", [DOCUMENTS[1:], DOCUMENTS[:3], [Document(b"new"), *DOCUMENTS]])
def test_if_the_text_changed_meanwhile_it_starts_again(tmp_path, changed):
    killed(tmp_path, 23)
    split, texts = finished(tmp_path, changed)
    assert same(split, memory_split(reader(changed)(), open_tokenizer("bytes")))
    assert texts == [document.text for document in changed]


def test_starting_again_takes_back_the_old_progress_first(tmp_path):
    killed(tmp_path, 23)
    texts = iter([reader([Document(b"new")])(), reader([Document(b"new")], dies_at=0)()])
    with pytest.raises(Killed):
        cached_split(tmp_path, lambda: next(texts), open_tokenizer("bytes"))
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

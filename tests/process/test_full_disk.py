"""A disk that fills up in mid-run ends it with one line; nothing that was written is lost."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkfree.core.records import RECORDS, of_kind, read
from checkfree.messages.control import RESUME
from checkfree.runtime.files import DiskFiles
from checkfree.runtime.store import Store
from checkfree.runtime.swarm.processes.workdir import Workdir
from tests.process.command import (
    checkfree_command,
    finished,
    last_tick,
    numbers,
    only_line,
    start,
    wait_until,
)
from tests.process.small_disk import NoMount, SmallDisk, small_disk

needs_hivemind = pytest.mark.skipif(
    importlib.util.find_spec("hivemind") is None, reason="hivemind is not installed"
)
SIZE = 4 << 20
PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def disk(folder: Path) -> Iterator[SmallDisk]:
    try:
        with small_disk(folder / "disk", SIZE) as made:
            yield made
    except NoMount as reason:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no small disk to fill: {reason}")


@pytest.mark.parametrize(
    ("command", "every", "room"),
    [
        pytest.param("train", 10, 0, id="a record does not fit"),
        pytest.param("train", 5, 16 * PAGE, id="a snapshot does not fit"),
        pytest.param("swarm up", 10, 0, id="in a swarm", marks=needs_hivemind),
    ],
)
def test_full_disk(
    folder: Path, undisturbed: Path, disk: SmallDisk, command: str, every: int, room: int
) -> None:
    words = [*command.split(), "small.yaml", "failures=losses.json", "recovery=checkfree_plus"]
    words += [f"out={disk.path}/run", f"resume.every={every}", "--quiet"]
    run_folder = disk.view / "run"
    process = start(folder, [*disk.prefix, *checkfree_command(*words)])
    wait_until(lambda: last_tick(run_folder) >= 11, process)
    process.send_signal(signal.SIGSTOP)
    written = read(run_folder)
    disk.fill(room)
    process.send_signal(signal.SIGCONT)
    line = only_line(finished(process, 1))
    assert f"go on: checkfree {command} --resume {disk.path}/run" in line
    assert "No space left" in line

    *lines, rest = (run_folder / RECORDS).read_bytes().split(b"\n")
    assert not rest
    assert [json.loads(line) for line in lines] == read(run_folder)
    assert read(run_folder)[: len(written)] == written
    store = Store(DiskFiles(run_folder))
    newest = store.offered(RESUME)[-1]
    assert newest >= 10
    assert [store.load(RESUME, newest, stage).version for stage in range(5)] == [newest] * 5

    disk.clear()
    again = checkfree_command(*command.split(), "--quiet", "--resume", f"{disk.path}/run")
    finished(start(folder, [*disk.prefix, *again]))
    assert Workdir.of(run_folder).processes() == []
    assert of_kind(read(run_folder), "resume")[0]["tick"] == newest
    assert numbers(run_folder) == numbers(undisturbed)


def test_full_disk_of_the_cache(folder: Path, disk: SmallDisk) -> None:
    """It is the cache's, wherever the text lies, and what was tokenized is kept."""
    pytest.importorskip("tokenizers", reason="a tokenizer.json needs the extra checkfree[data]")
    words = {word: number for number, word in enumerate(["[UNK]", "stage", "lost", "mean"])}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"}
    split = {"type": "Whitespace"}
    (folder / "words.json").write_text(
        json.dumps({"version": "1.0", "model": model, "pre_tokenizer": split, "added_tokens": []})
    )
    train = ["train", "small.yaml", "iterations=1", "out=run", "data.tokenizer=words.json"]
    command = [*disk.prefix, *checkfree_command(*train, f"data.cache={disk.path}/cache")]
    disk.fill(PAGE)
    line = only_line(finished(start(folder, command), 1))
    assert "tokenizing into" in line and "No space left" in line and "data.cache" in line
    assert not (folder / "run").exists()

    disk.clear()
    told = finished(start(folder, command)).stderr
    assert "unknown to the tokenizer; no separator between documents" in told
    text = read(folder / "run")[0]["text"]
    assert text["read"]["documents"] == 2 and text["changed"]["unknown"]["documents"] == 2

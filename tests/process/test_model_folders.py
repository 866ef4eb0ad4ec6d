"""Export, generate and evaluate as their users have them: full disks, readers that go away,
Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkfree.models.folder import Folder
from tests.process.command import checkfree_command, finished, only_line, run, start
from tests.process.small_disk import NoMount, SmallDisk, small_disk
from tests.process.test_output import shell

SIZE = 1 << 20
PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.process.command import prepare

    folder = prepare(tmp_path_factory.mktemp("trained"))
    run(folder, "train", "small.yaml", "out=run", "iterations=6", "--quiet")
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    try:
        with small_disk(tmp_path / "disk", SIZE) as made:
            yield made
    except NoMount as reason:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no small disk to fill: {reason}")


@pytest.mark.parametrize("pages", [2, 8, 14])
def test_a_full_disk_leaves_no_model_and_room_lets_it_be_written(
    trained: Path, disk: SmallDisk, pages: int
) -> None:
    disk.fill(pages * PAGE)
    command = [*disk.prefix, *checkfree_command("export", "run", "--to", f"{disk.path}/out")]
    line = only_line(finished(start(trained, command), 1))
    assert "No space left on device; nothing is left there" in line
    assert not [name for name in os.listdir(disk.view) if "out" in name]
    disk.clear()
    finished(start(trained, command))
    assert len(Folder(disk.view / "out").files) == 5


def test_what_is_shown(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(trained, "export", "run", "--to", str(out), "--dtype", "bf16")
    assert "of iteration 6, bfloat16, in 5 shards" in done.stdout and done.stderr == ""
    again = run(trained, "export", "run", "--to", str(out), expect=2)
    assert "is not empty: give a folder that is, or a new one" in only_line(again)
    said = [run(trained, "generate", m, "the", "--temperature", "0") for m in ("run", str(out))]
    assert all(one.stdout.startswith("the") and one.stderr == "" for one in said)
    found = run(trained, "evaluate", str(out), "--text", "text.txt", "--json")
    assert json.loads(found.stdout)["tokens"] > 1000 and found.stderr == ""
    line = only_line(run(trained, "generate", "nowhere", "the", expect=2))
    assert "nowhere is no run folder" in line


def test_a_reader_that_goes_away_ends_it(trained: Path) -> None:
    line = "checkfree generate run the --tokens 1000000 | head -c 9; echo; echo ${PIPESTATUS[0]}"
    found = shell(trained, line)
    assert found.stdout.splitlines()[-1] == "0" and found.stderr == ""
    found = shell(trained, "checkfree generate run the --tokens 5 > /dev/full")
    assert found.returncode == 1 and "No space left on device" in found.stderr
    found = shell(trained, "checkfree evaluate run > /dev/full")
    assert found.returncode == 1 and "No space left on device" in found.stderr


def test_ctrl_c(trained: Path) -> None:
    words = ("generate", "run", "the", "--tokens", "1000000")
    process = start(trained, checkfree_command(*words))
    assert process.stdout is not None
    assert process.stdout.read(5).startswith("the")
    process.send_signal(signal.SIGINT)
    done = finished(process, 130)
    assert only_line(done) == "checkfree: interrupted" and done.stdout.endswith("\n")

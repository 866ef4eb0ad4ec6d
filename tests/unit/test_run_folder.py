"""Where a new run may be written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from checkfree.cli import main
from checkfree.core.errors import BadInput, RunFailed, cannot_write
from checkfree.core.records import RECORDS, read
from checkfree.runtime import folder as folders
from checkfree.runtime.files import write_whole
from checkfree.runtime.folder import CONFIG, TRACE, VERSIONS, begin, begun, create


def test_a_new_one_is_empty(tmp_path: Path) -> None:
    """Also of what was written to see whether it can be."""
    assert list(create(tmp_path / "deep" / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "why"), [(RECORDS, "holds a run already"), (CONFIG, "would overwrite")]
)
def test_what_is_there_is_kept(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(BadInput, match=why):
        create(tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_what_is_no_place_for_one(tmp_path: Path) -> None:
    (tmp_path / "odd" / RECORDS).mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "odd", tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(BadInput, match=r"cannot be written: .*; give another") as caught:
            create(path)
        assert "\n" not in str(caught.value)


NAMES = (VERSIONS, TRACE, CONFIG, RECORDS)


def full_at(name: str, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes no more when it comes to this file."""

    def write(path: Path, data: bytes) -> None:
        if path.name == name:
            raise error
        write_whole(path, data)

    monkeypatch.setattr(folders, "write_whole", write)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("error", [RunFailed("full"), KeyboardInterrupt()])
def test_one_that_could_not_be_begun_is_as_it_was(
    tmp_path: Path, name: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes").write_text("mine")
    full_at(name, error, monkeypatch)
    with pytest.raises(type(error)):
        begin(create(tmp_path), "config", "trace", versions={"torch": "2"})
    assert [path.name for path in tmp_path.iterdir()] == ["notes"] and not begun(tmp_path)
    monkeypatch.undo()
    begin(create(tmp_path), "config", "trace", versions={"torch": "2"})
    assert begun(tmp_path) and sorted(path.name for path in tmp_path.iterdir()) == sorted(
        (*NAMES, "notes")
    )


@pytest.mark.parametrize("name", NAMES)
def test_what_was_there_before_it_stays(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for own in (VERSIONS, TRACE):
        (tmp_path / own).write_text("mine")
    full_at(name, RunFailed("full"), monkeypatch)
    with pytest.raises(RunFailed):
        begin(create(tmp_path), "config", "trace", versions={"torch": "2"})
    assert {path.name for path in tmp_path.iterdir()} == {VERSIONS, TRACE}


def test_nothing_is_gone_on_with_that_has_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command says to begin again; and so it does, once there is room."""
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 50)
    model = ("model.width=8", "model.heads=2", "model.hidden=8", "model.blocks=4")
    sizes = ("iterations=1", "stages=4", "microbatches=2", "batch=1", "model.context=8", *model)
    text = ("data.name=text", f"data.path={tmp_path / 'text.txt'}")
    command = ["train", "demo", *sizes, *text, f"out={tmp_path / 'run'}", "--quiet"]
    full = OSError(28, "No space left on device")
    full_at(CONFIG, cannot_write("x", full), monkeypatch)
    assert main(command) == 1
    assert capsys.readouterr().err.endswith(": make room, then begin again\n")
    full_at(CONFIG, KeyboardInterrupt(), monkeypatch)
    assert main(command) == 130
    assert capsys.readouterr().err == "checkfree: interrupted\n"
    monkeypatch.undo()
    assert main(command) == 0


def test_replays_that_a_resumed_run_makes_again_are_taken_back(tmp_path: Path) -> None:
    """As the iterations that they are written after."""
    kinds = ("config", "plan", "iteration", "replay", "iteration", "replay", "process", "end")
    lines = [json.dumps({"kind": kind, "place": place}) for place, kind in enumerate(kinds)]
    (tmp_path / RECORDS).write_text("".join(f"{line}\n" for line in lines))
    folders.rewind(tmp_path, 2)
    assert [record["place"] for record in read(tmp_path)] == [0, 1, 2, 3]

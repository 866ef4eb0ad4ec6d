"""A run is its configuration, its code and what its data hold: not where those lie."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import checkfree
from checkfree.cli import main
from checkfree.config.load import build, load
from checkfree.config.places import PLACES, moved, moves
from checkfree.core.errors import BadInput
from tests.contract.small import TREE, small, text

SIZES = {"failures": {"scenario": "none"}, "iterations": 12, "resume": {"every": 4}}


@pytest.fixture
def cut(tmp_path: Path) -> tuple[checkfree.Run, Path]:
    """A whole run, and the folder of the same one after it was stopped at iteration 6."""
    config = small(tmp_path / "whole", SIZES, text(tmp_path / "a.txt"))
    return checkfree.train(config), stopped(tmp_path / "cut")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one that was stopped, for who changes nothing."""
    return stopped(tmp_path_factory.mktemp("once") / "cut")


def stopped(folder: Path) -> Path:
    """The folder of a run that was stopped at iteration 6."""

    def stop(record: object) -> None:
        if getattr(record, "iteration", 0) >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkfree.train(small(folder, SIZES, text(folder.parent / "a.txt")), listeners=[stop])
    return folder


def move(folder: Path) -> Path:
    """Its text, to another folder."""
    (folder.parent / "elsewhere").mkdir()
    return (folder.parent / "a.txt").rename(folder.parent / "elsewhere" / "a.txt")


def test_data_elsewhere(cut: tuple[checkfree.Run, Path]) -> None:
    whole, folder = cut
    path = move(folder)
    with pytest.raises(BadInput, match=r"data.path .* nothing there"):
        checkfree.resume(folder)
    cache = folder.parent / "cache"
    again = checkfree.resume(folder, [f"data.path={path}", f"data.cache={cache}"])
    assert again.losses == whole.losses
    config = load(folder / "config.yaml")  # who goes on, or verifies, need not say it again
    assert (config.data.path, config.data.cache) == (str(path), str(cache))
    assert checkfree.verify(folder).difference == ""


def test_data_elsewhere_by_an_edited_configuration(cut: tuple[checkfree.Run, Path]) -> None:
    whole, folder = cut
    path = move(folder)
    file = folder / "config.yaml"
    file.write_text(file.read_text().replace(str(folder.parent / "a.txt"), str(path)))
    assert checkfree.resume(folder).losses == whole.losses


def test_other_data_are_another_run(cut: tuple[checkfree.Run, Path]) -> None:
    _, folder = cut
    other = folder.parent / "b.txt"
    other.write_text((folder.parent / "a.txt").read_text().replace("7", "9"))
    before = (folder / "config.yaml").read_bytes()
    with pytest.raises(BadInput, match="the data are not those that the run began with"):
        checkfree.resume(folder, [f"data.path={other}"])
    assert (folder / "config.yaml").read_bytes() == before


def test_other_threads(cut: tuple[checkfree.Run, Path]) -> None:
    whole, folder = cut
    again = checkfree.resume(folder, ["threads=2"])
    assert again.losses == pytest.approx(whole.losses, rel=1e-5)
    assert load(folder / "config.yaml").threads == 2


def test_on_the_command_line(
    cut: tuple[checkfree.Run, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    whole, folder = cut
    path = move(folder)
    command = ["train", "--quiet", "--resume", str(folder)]
    assert main(command) == 2
    assert "data.path" in capsys.readouterr().err
    assert main([*command, f"data.path={path}", "devices=cpu"]) == 0
    assert f"{whole.losses[-1]:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("out=elsewhere", "init=RUN out=NEW"),
        ("iterations=40", "init=RUN iterations=… out=NEW"),
        ("optimizer.lr=1e-3", "init=RUN optimizer.lr=… out=NEW"),
        ("failures=none", "another run"),
        ("data.paht=x", f"takes {', '.join(PLACES)} only"),
        ("threads=0", "threads=0: expected a whole number"),
        ("devices=[tpu]", "devices: 'tpu' is none"),
        ("demo", "takes no configuration (demo)"),
    ],
)
@pytest.mark.parametrize("action", [["train"], ["swarm", "up"], ["swarm", "lead"]])
def test_what_a_run_that_goes_on_does_not_take(
    action: list[str],
    word: str,
    told: str,
    once: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {path: path.read_bytes() for path in once.rglob("*") if path.is_file()}
    assert main([*action, "--quiet", "--resume", str(once), word]) == 2
    line = capsys.readouterr().err
    assert told in line
    assert line.count("\n") == 1
    assert before == {path: path.read_bytes() for path in once.rglob("*") if path.is_file()}


def test_branches_of_a_run_whose_data_moved(cut: tuple[checkfree.Run, Path]) -> None:
    _, folder = cut
    run = checkfree.resume(folder).folder
    asked = {"at": 6, "stages": [2], "rules": ["checkfree"], "gaps": [0, 2]}
    first = checkfree.branch(run, **asked)  # type: ignore[arg-type]
    path = move(folder)
    (run / "config.yaml").write_text(
        (run / "config.yaml").read_text().replace(str(folder.parent / "a.txt"), str(path))
    )
    assert checkfree.branch(run, **asked) == first  # type: ignore[arg-type]
    assert json.loads((run.with_name("cut-at-6") / "origin.json").read_text())["at"] == 6


@pytest.mark.parametrize("path", ["a b/c  d", "null", "'a", '"a', "0123", "~/x", "#1"])
def test_words_take_a_run_to_any_place(path: str) -> None:
    was = build({"data": {"name": "text"}})
    data = {"name": "text", "path": path, "cache": path, "tokenizer": path}
    where = {"data": data, "recovery": {"log_path": path}}
    how = {"stash": "offload", "stash_path": path, "stash_room": 5}
    config = build({**where, **how, "threads": 3, "devices": ["cpu", "cuda:1"]})
    words = moves(config, was, PLACES)
    others = ("model.", "recompute")  # of the Hub; the older form of stash
    assert len(words) == len([key for key in PLACES if not key.startswith(others)])
    assert moved(was, words) == config


def test_a_study_whose_data_moved_is_the_same_study(tmp_path: Path) -> None:
    path, out = tmp_path / "a.txt", tmp_path / "study"
    failures = {"scenario": "random", "probability": 0.05, "stages": [2]}
    about = {**TREE, "iterations": 8, "failures": failures, "resume": {"every": 2}}
    checkfree.compare({**about, **text(path)}, strategies=["checkfree"], out=out)
    runs = sorted(out.rglob("records.jsonl"))
    then = [file.read_bytes() for file in runs]
    whole = checkfree.read(runs[0].parent)
    lines = runs[0].read_text().splitlines(keepends=True)
    runs[0].write_text("".join(lines[: [r["kind"] for r in whole].index("ledger")]))
    (tmp_path / "elsewhere").mkdir()
    there = text(tmp_path / "elsewhere" / "a.txt")
    path.unlink()
    checkfree.compare({**about, **there}, strategies=["checkfree"], out=out)
    assert [file.read_bytes() for file in runs[1:]] == then[1:]  # not trained again
    again = checkfree.read(runs[0].parent)
    assert [r["kind"] for r in again].count("resume") == 1
    assert [r["loss"] for r in again if r["kind"] == "iteration"] == [
        r["loss"] for r in whole if r["kind"] == "iteration"
    ]

"""``checkfree verify``: a run folder is enough to have the same run again, bit for bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import checkfree
from checkfree.cli import main
from checkfree.config.load import load
from checkfree.core.config import Config
from checkfree.core.records import RECORDS, IterationRecord, Record, of_kind, read
from tests.process.command import numbers, prepare

WORDS = ("iterations=7", "resume.every=3", "validation.every=3", "microbatches=2")
HITS = ({"iteration": 2, "stage": 2}, {"iteration": 5, "stage": 3})
LATER = (HITS[0], {"iteration": 6, "stage": 3})
NEIGHBOURS = ({"iteration": 5, "stage": 2}, {"iteration": 5, "stage": 3})


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(prepare(tmp_path))
    return tmp_path


def config(*words: str, hits: tuple[dict[str, int], ...] = HITS) -> Config:
    Path("hits.json").write_text(json.dumps({"failures": hits}))
    return load("small.yaml", [*WORDS, "failures=hits.json", "out=run", *words])


def verified(capsys: pytest.CaptureFixture[str], *words: str, expect: int = 0) -> str:
    """What the command said."""
    capsys.readouterr()
    assert main(["verify", "run", "--quiet", *words]) == expect
    told = capsys.readouterr()
    return told.out if expect == 0 else told.err


def same(count: int) -> str:
    return f"{count} iterations, losses equal bit for bit\n"


@pytest.mark.parametrize(
    ("words", "hits", "ticks"),
    [
        pytest.param(("recovery=checkfree_plus", "replicas=2"), HITS, 7, id="replicas"),
        pytest.param(
            ("recovery=checkfree", "replicas=2"), ({**HITS[0], "replica": 1},), 7, id="one replica"
        ),
        pytest.param(("recovery=redundant",), HITS, 7, id="redundant"),
        pytest.param(("recovery=random", "checkpoint.every=2"), HITS, 7, id="random"),
        pytest.param(("recovery=checkfree", "checkpoint.every=2"), NEIGHBOURS, 8, id="safety net"),
    ],
)
def test_a_run_comes_out_again(
    words: tuple[str, ...],
    hits: tuple[dict[str, int], ...],
    ticks: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkfree.train(config(*words, hits=hits))
    Path("hits.json").unlink()  # the plans have it
    assert verified(capsys) == same(ticks)


def test_a_run_that_was_stopped_and_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    class Stop(Exception):
        pass

    def stop(record: Record) -> None:
        if isinstance(record, IterationRecord) and record.tick == 7:
            raise Stop

    with pytest.raises(Stop):
        twice = config("recovery=checkpoint(interval=3)", hits=LATER)  # to 0, and to 3
        checkfree.train(twice, listeners=[stop])
    assert verified(capsys) == same(8), "as far as it came"
    checkfree.resume("run")
    assert of_kind(read(Path("run")), "resume")
    assert verified(capsys) == same(10)


def test_a_run_that_its_strategy_could_not_save(capsys: pytest.CaptureFixture[str]) -> None:
    assert checkfree.train(config("recovery=checkfree", hits=NEIGHBOURS)).status == "failed"
    assert verified(capsys, "--out=again") == same(5)
    assert read(Path("again"))[-1]["status"] == "interrupted"


# --- what is not the same ------------------------------------------------------------------------


def change(kind: str, place: int, alter: Callable[[dict[str, Any]], None]) -> None:
    """Alter one record of the run."""
    records = read(Path("run"))
    alter(of_kind(records, kind)[place])  # type: ignore[arg-type]
    Path("run", RECORDS).write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run in it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = prepare(tmp_path_factory.mktemp("trained"))
        patch.chdir(folder)
        checkfree.train(config("recovery=checkfree"))
    return folder


@pytest.fixture
def run(trained: Path, folder: Path) -> None:
    shutil.copytree(trained / "run", folder / "run")


@pytest.mark.usefixtures("run")
def test_its_folder_is_a_run_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert verified(capsys, "--out=again") == same(7)
    assert numbers(Path("again")) == numbers(Path("run"))
    assert read(Path("again"))[-1]["status"] == "done"
    assert main(["report", "again", "--out=page.html"]) == 0


@pytest.mark.usefixtures("run")
def test_another_loss_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    change("iteration", 4, lambda record: record.update(loss=record["loss"] * (1 + 1e-15)))
    told = verified(capsys, expect=1)
    assert told.startswith("checkfree: run after 4 equal iterations: iteration 4, loss ")
    assert "all that took part had the same versions, kind of CPU and threads" in told
    assert len(told.splitlines()) == 1


@pytest.mark.usefixtures("run")
def test_other_versions_are_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    change("process", 0, lambda record: record["equipment"].update(torch="0.1"))
    change("validation", 1, lambda record: record.update(loss=None))
    told = verified(capsys, expect=1)
    assert "validation before 2, loss None, was recorded" in told
    assert "(most likely because torch was 0.1 at first, and is " in told


@pytest.mark.usefixtures("run")
def test_a_plan_left_out_is_another_run(capsys: pytest.CaptureFixture[str]) -> None:
    """The plans are what is trained again: without the second one no stage is lost at tick 2."""
    records = read(Path("run"))
    records.remove(of_kind(records, "plan")[1])  # type: ignore[arg-type]
    Path("run", RECORDS).write_text("".join(json.dumps(record) + "\n" for record in records))
    assert "2 equal iterations" in verified(capsys, expect=1)


@pytest.mark.usefixtures("run")
def test_what_can_t_be_verified(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds a run already" in verified(capsys, "--out=run", expect=2)
    (folder / "text.txt").write_text("other words\n" * 300)
    assert "the data are not those" in verified(capsys, expect=2)
    change("plan", 1, lambda record: record.update(members=["1.0"]))
    assert "plan that can't be read" in verified(capsys, expect=2)
    change("config", 0, lambda record: record.update(data={"name": "user"}))
    assert "modules of your own" in verified(capsys, expect=2)
    shutil.rmtree("run")
    assert "no run folder" in verified(capsys, expect=2)


def test_the_word_of_before_names_the_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "runs/a", "--quiet"]) == 2
    said = capsys.readouterr()
    assert said.err == ("checkfree: replay is called verify now: checkfree verify runs/a --quiet\n")

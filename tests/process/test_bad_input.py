"""Wrong command lines: exit code 2, one line that says what is wrong, and nothing left behind."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from checkfree.core.records import RECORDS
from checkfree.messages.control import RESUME, WEIGHTS
from tests.process.command import numbers, only_line, prepare, run

WRONG_WORDS = {
    # what was given: what the line has to say
    "iteratons=5": ("iteratons", "iterations"),
    "model.widht=32": ("model.widht", "model.width"),
    "iterations=many": ("iterations", "many"),
    "iterations": ("'iterations'", "key=value"),
    "iterations=0": ("iterations=0", "at least 1"),
    "microbatches=0": ("microbatches=0", "at least 1"),
    "stages=0": ("stages=0", "at least 1"),
    "replicas=8": ("replicas=8", "microbatches=4"),
    "schedule=zigzag": ("zigzag", "gpipe, 1f1b"),
    "precision=fp8": ("fp8", "bf16"),
    "devices=[tpu]": ("tpu", "cpu"),
    "recompute=[9]": ("stage 9", "0 … 4"),
    "model.heads=3": ("model.heads=3", "model.width=15"),
    "model=5": ("model=5", "model.family"),
    "data.validation_share=2": ("data.validation_share=2.0", "between 0 and 1"),
    "failures.probability=-0.1": ("failures.probability", "-0.1", "[0, 1]"),
    "failures.rate_per_hour=-0.1": ("failures.rate_per_hour", "-0.1", "[0, 1)"),
    "failures.rate_per_hour=10": ("failures.rate_per_hour", "10", "0.1"),
    "recovery=checkpoint(intervall=3)": ("recovery.intervall", "recovery.interval"),
    "checkpoint.every=0": ("checkpoint.every=0", "at least 1"),
    "resume.every=-1": ("resume.every=-1", "at least 0"),
    "out=text.txt/run": ("text.txt/run", "another"),
    # what takes torch to find out
    "stages=8": ("stages is 8", "model.blocks 4", "1, 2, 4"),
    "data.path=missing.txt": ("missing.txt", "expected a file"),
    "data.name=stdlib": ("data.path=text.txt", "data.name stdlib has no use", "data.path=null"),
    "failures=missing.json": ("missing.json", "no such file"),
    "failures=far.json": ("stage 99", "0 … 4", "set stages"),
    "optimizer.lr=-1": ("optimizer.lr=-1", "0"),
}

WRONG_LINES = {
    "train": ("CONFIG", "--resume RUN"),
    "train missing.yaml": ("missing.yaml", "demo"),
    "train broken.yaml": ("broken.yaml", "not YAML"),
    "train --resume missing": ("missing", "out=FOLDER"),
    "train --resume .": ("records.jsonl",),
    "train small.yaml --resume .": ("--resume", "takes no configuration (small.yaml)"),
    "train --resume . iterations=5": ("records.jsonl",),
    "schedule small.yaml stages=0": ("stages=0", "at least 1"),
    "failures sample small.yaml --ticks 0": ("--ticks", "at least 1"),
    "failures show small.yaml": ("small.yaml", "not JSON", "failures"),
    # data that show what is wrong with them when they are read
    "train small.yaml out=run data.name=jsonl data.path=torn.jsonl.gz": (
        "torn.jsonl.gz line ",
        "expected a whole gzip file",
    ),
    "train small.yaml out=run data.name=jsonl data.path=loop": ("loop", "leads nowhere"),
    "train small.yaml out=run data.path=binaries": ("binaries", "skipped 2 binary (6 B)"),
    "train small.yaml out=run data.separator=x": ("data.separator 'x'", "bytes"),
    "train small.yaml out=run data.tokenizer=binaries": ("binaries: a folder",),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = prepare(tmp_path_factory.mktemp("inputs"))
    (folder / "broken.yaml").write_text("stages: [4\n")
    (folder / "far.json").write_text(json.dumps({"failures": [{"iteration": 3, "stage": 99}]}))
    rows = "".join(json.dumps({"text": f"row {number}"}) + "\n" for number in range(99))
    torn = bytearray(gzip.compress(rows.encode(), mtime=0))
    torn[len(torn) // 2] ^= 255
    (folder / "torn.jsonl.gz").write_bytes(torn)
    (folder / "loop").symlink_to("loop")
    (folder / "binaries").mkdir()
    for number in range(2):
        (folder / "binaries" / f"{number}.png").write_bytes(b"\0\1\2")
    return folder


@pytest.mark.parametrize("word", WRONG_WORDS)
def test_wrong_word(inputs: Path, word: str) -> None:
    before = contents(inputs)
    line = only_line(run(inputs, "train", "small.yaml", "out=run", word, expect=2))
    assert [part for part in WRONG_WORDS[word] if part not in line] == [], line
    assert contents(inputs) == before


@pytest.mark.parametrize("words", WRONG_LINES)
def test_wrong_line(inputs: Path, words: str) -> None:
    before = contents(inputs)
    line = only_line(run(inputs, *words.split(), expect=2))
    assert [part for part in WRONG_LINES[words] if part not in line] == [], line
    assert contents(inputs) == before


@pytest.mark.parametrize("words", ["tarin small.yaml", "", "train small.yaml --quite", "failures"])
def test_no_such_command_or_option(inputs: Path, words: str) -> None:
    made = run(inputs, *words.split(), expect=2)
    assert "usage: checkfree" in made.stderr
    assert "Traceback" not in made.stderr


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


# --- a run folder that is wrong ------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``run`` in it, as a kill after its last snapshot left it."""
    folder = prepare(tmp_path_factory.mktemp("stopped"))
    run(folder, "train", "small.yaml", "out=run", "iterations=6", "--quiet")
    records = folder / "run" / RECORDS
    records.write_text("".join(records.read_text().splitlines(keepends=True)[:-1]))
    return folder


def test_a_run_folder_is_not_trained_over(stopped: Path) -> None:
    before = contents(stopped / "run")
    line = only_line(run(stopped, "train", "small.yaml", "out=run", expect=2))
    assert "holds a run already" in line
    assert "checkfree train --resume run" in line
    assert contents(stopped / "run") == before


def damage_config(run_folder: Path) -> None:
    config = run_folder / "config.yaml"
    config.write_text(config.read_text().replace("width: 16", "width: 32"))


def damage_data(run_folder: Path) -> None:
    text = run_folder.parent / "text.txt"
    text.write_text(text.read_text().replace("mean", "mode"))


def damage_records(run_folder: Path) -> None:
    records = run_folder / RECORDS
    records.write_text(records.read_text().replace('{"kind": "plan"', "{{", 1))


def damage_snapshots(run_folder: Path) -> None:
    for state in (run_folder / RESUME).glob("*/stage-1.safetensors"):
        os.truncate(state, 100)


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (damage_config, ("config.yaml", "width", "16", "32")),
        (damage_data, ("data", "began with", "back")),
        (damage_records, ("records.jsonl:", "is no record")),
        (damage_snapshots, ("snapshot", "stage-1.safetensors")),
    ],
)
def test_resume_refuses(
    stopped: Path, tmp_path: Path, damage: Callable[[Path], None], parts: tuple[str, ...]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(stopped, folder)
    damage(folder / "run")
    before = contents(folder)
    line = only_line(run(folder, "train", "--resume", "run", expect=2))
    assert [part for part in parts if part not in line] == [], line
    assert contents(folder) == before


def test_a_run_stopped_before_its_first_record_begins_anew(stopped: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(stopped, folder)
    (folder / "run" / RECORDS).write_text("")
    for made in (RESUME, WEIGHTS):
        shutil.rmtree(folder / "run" / made)
    run(folder, "train", "--resume", "run", "--quiet")
    assert numbers(folder / "run") == numbers(stopped / "run")

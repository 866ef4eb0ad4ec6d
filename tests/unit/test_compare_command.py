"""Comparisons and reports asked for wrongly: exit code 2, one line, nothing left behind."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkfree.cli import main
from tests.process.command import prepare

WRONG = {
    # what was given: what the line has to say
    "compare small.yaml --strategies chekfree": (
        "chekfree",
        "no_failure, auto, shadow, fit, none, checkfree, checkfree_plus, checkpoint, replay",
    ),
    "compare small.yaml --strategies checkfree,checkfree": ("checkfree twice",),
    "compare small.yaml --strategies 'checkpoint(interval=0)'": (
        "checkpoint(interval=0)",
        "recovery.interval=0",
        "at least 1",
    ),
    "compare small.yaml --strategies checkfree --rates 100": ("rates has 100", "below 100"),
    "compare small.yaml --strategies checkfree --rates=-5": ("rates has -5", "from 0"),
    "compare small.yaml --strategies checkfree --rates 5,x": ("'x'", "percent"),
    "compare small.yaml --strategies checkfree --seeds 0": ("seeds=0", "at least 1"),
    "compare small.yaml --strategies checkfree --seeds two": ("seeds=two", "whole number"),
    "compare small.yaml --strategies checkfree --workers 0": ("workers=0", "at least 1"),
    "compare small.yaml --strategies checkfree --out text.txt/x": ("text.txt/x", "give another"),
    "compare small.yaml --strategies checkfree --results text.txt": ("text.txt", "give another"),
    "compare small.yaml --strategies checkfree iteratons=5": ("iteratons", "iterations"),
    "compare small.yaml --strategies checkfree fleet.name=moon": ("moon",),
    "compare small.yaml --strategies checkfree --rates 5 fleet.name=moon": ("moon", "paper"),
    "compare small.yaml --strategies checkfree failures=missing.json": ("missing.json",),
    "compare small.yaml --strategies checkfree failures=far.json": ("stage 99", "0 … 4"),
    "compare small.yaml --strategies checkfree data.path=gone.txt": ("gone.txt",),
    "compare small.yaml --strategies checkfree stages=3": ("stages is 3", "model.blocks 4"),
    "compare missing.yaml": ("missing.yaml", "demo"),
    "compare section.yaml": ("compare.seed", "compare.seeds"),
    "report nowhere": ("nowhere", "does not exist"),
    "report .": ("neither study.json nor records.jsonl",),
    "report small.yaml": ("small.yaml",),
    "report fleet.price=2": ("give a folder",),
    "report . iterations=2": ("iterations=…", "only fleet."),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    prepare(tmp_path)
    (tmp_path / "far.json").write_text(json.dumps({"failures": [{"iteration": 3, "stage": 99}]}))
    (tmp_path / "section.yaml").write_text("compare: {seed: 3}\n")
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("words", WRONG)
def test_wrong(folder: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = names(folder)
    assert main(shlex.split(words)) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith("checkfree: ")
    assert [part for part in WRONG[words] if part not in line] == [], line
    assert out == ""
    assert names(folder) == before


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}

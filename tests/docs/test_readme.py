"""What the README shows is there, and its commands run (on a model of a few hundred weights)."""

from __future__ import annotations

import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from checkfree.cli import main
from checkfree.cli.entry import parse

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = (
    "iterations=6",
    "resume.every=2",
    "batch=1",
    "microbatches=2",
    "validation.microbatches=1",
    "model.width=12",
    "model.heads=2",
    "model.hidden=12",
    "model.blocks=6",
    "model.context=16",
)


def scaled(words: list[str]) -> list[str]:
    """The same command on a model that trains in a moment."""
    if words[0] == "branch":  # the README's run is longer
        short = {"50": "3", "0,10,50": "0,1,2"}
        return [short.get(word, word) for word in words]
    if words[0] == "simulate":
        return [*words[:-1], "iterations=20"]
    if words[0] == "compare":  # of each strategy one run: a run is a process of its own
        words = ["1" if before == "--seeds" else word for before, word in pairwise(["", *words])]
    trains = words[0] in ("train", "compare", "profile") and "--resume" not in words
    return [*words, *SMALL] if trains else words


def commands() -> list[list[str]]:
    """The lines of shell blocks that call checkfree, without their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [line[1:] for line in lines if line[:1] == ["checkfree"]]


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [t for t in targets if not t.startswith("http") and not (ROOT / t).exists()]
    assert targets and not missing


def test_commands_run_in_the_order_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "spot.csv").write_text("0,add,a\n0,add,b\n60000,remove,a\n90000,add,c\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the processes that compare and branch start
    found = [words for words in commands() if words[0] != "swarm"]  # processes: tests/process
    assert len(found) >= 6
    for words in found:
        assert main(scaled(words)) == 0, words
    assert (tmp_path / "runs" / "a" / "loss.png").exists()


def test_swarm_commands_are_understood() -> None:
    found = [words for words in commands() if words[0] == "swarm"]
    assert len(found) >= 4
    for words in found:
        assert callable(parse(words).run), words


def test_every_make_target_it_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = re.findall(r"^make (\w+)", README, re.MULTILINE)
    assert {"demo", "test"} <= set(named)
    assert all(re.search(rf"^{name}:", makefile, re.MULTILINE) for name in named)

"""The commands that a page shows, and how they run on a model of a few hundred weights."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from checkfree.cli import main

ROOT = Path(__file__).parents[2]
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
SHORT = {
    "branch": {"--at": "3", "--gaps": "0,1,2"},  # the pages' runs are longer
    "merge": {"--last": "3", "--generations": "1"},
    "compare": {"--seeds": "1"},  # of each strategy one run: a run is a process of its own
}
"""Commands, and what some of their options are instead."""
LINKS = {
    "format": 1,
    "machines": [{"name": "here", "seats": ["0.0", "1.0"]}, {"name": "there", "seats": ["2.0"]}],
    "links": [{"from": "here", "to": "there", "latency": 0.02, "bandwidth": 1e6}],
}
"""What ``profile --links`` would have measured."""


def commands(page: Path, program: str = "checkfree") -> list[list[str]]:
    """The lines of shell blocks that call the program, without that word and their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    joined = [block.replace("\\\n", " ") for block in blocks]
    lines = [shlex.split(line, comments=True) for block in joined for line in block.splitlines()]
    return [line[1:] for line in lines if line[:1] == [program]]


def files(page: Path) -> list[tuple[str, str]]:
    """The Python blocks that begin with the name of a file, and their text."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.DOTALL)


def scaled(words: list[str]) -> list[str]:
    """The same command on a model that trains in a moment."""
    short = SHORT.get(words[0], {})
    words = [short.get(before, word) for before, word in pairwise(["", *words])]
    words = [re.sub(r"^(init=.*)@\d+$", r"\1@4", word) for word in words]
    if words[0] in ("simulate", "plan"):
        return [*words, "iterations=20"]
    trains = words[0] in ("train", "compare", "profile") and "--resume" not in words
    return [*words, *SMALL] if trains else words


def run_as_shown(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Run a page's commands one after the other in ``folder``, which has what a checkout's has.
    Those of a swarm, and what measures it, are left out: tests/process has them. Returns those
    that ran."""
    shutil.copytree(ROOT / "configs", folder / "configs")
    for script in (ROOT / "experiments").glob("own_*.py"):
        shutil.copy(script, folder)
    for name, text in files(page):
        (folder / name).write_text(text)
    (folder / "spot.csv").write_text("0,add,a\n0,add,b\n60000,remove,a\n90000,add,c\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the processes that compare and branch start
    (folder / "links.json").write_text(json.dumps(LINKS))
    found = [words for words in commands(page) if words[0] != "swarm" and "--links" not in words]
    for words in found:
        assert main(scaled(words)) == 0, words
    return found


def run_script(script: Path, words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``python script words`` does it, but in this process, which has imported most."""
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    monkeypatch.setattr(sys, "argv", [str(script), *words])
    for beside in script.parent.glob("*.py"):  # what it imports of there goes with the test
        monkeypatch.setitem(sys.modules, beside.stem, None)
        del sys.modules[beside.stem]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        assert not end.code, end.code


def targets(page: Path) -> list[str]:
    """Where a page's links and images lead within the repository, as they are written."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    return [target for target in found if not re.match(r"[a-z]+:", target)]

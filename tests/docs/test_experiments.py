"""The commands on the pages of the experiments: every record that is committed still counts as
done, so comparing again trains nothing, and makes the report."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from checkfree.cli import main
from checkfree.cli.entry import parse
from tests.docs.commands import ROOT, commands

PAGES = [page for page in sorted((ROOT / "experiments").glob("*/README.md")) if commands(page)]


def ids(page: Path) -> str:
    return page.parent.name


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_its_commands(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "experiments" / page.parent.name
    shutil.copytree(page.parent, folder)
    monkeypatch.chdir(tmp_path)
    for words in commands(page):
        if "--results" in words:
            assert main(words) == 0
            out = tmp_path / words[words.index("--out") + 1]
            assert (out / "report.html").is_file() and not (out / "runs").exists()
        elif words[0] == "simulate":  # fewer iterations and seeds: the figures are not committed so
            few = ["1" if before == "--seeds" else word for before, word in pairwise(["", *words])]
            few = ["iterations=20" if word.startswith("iterations=") else word for word in few]
            assert main(few) == 0
        else:  # hours of training
            assert callable(parse(words).run)


def test_they_are_all_looked_at() -> None:
    told = {page.parent.name for page in PAGES if any("--results" in w for w in commands(page))}
    studies = (ROOT / "experiments").glob("*/results/study.json")
    assert told == {study.parts[-3] for study in studies}

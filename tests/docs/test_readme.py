"""What the README shows is there, and its commands run (on a model of a few hundred weights)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from checkfree.cli.entry import parse
from tests.docs.commands import ROOT, commands, run_as_shown, targets

README = ROOT / "README.md"


def test_links_lead_somewhere() -> None:
    found = targets(README)
    assert found and not [target for target in found if not (ROOT / target).exists()]


def test_commands_run_in_the_order_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(run_as_shown(README, tmp_path, monkeypatch)) >= 3
    assert (tmp_path / "runs" / "a" / "loss.png").exists()


def test_swarm_commands_are_understood() -> None:
    found = [words for words in commands(README) if words[0] == "swarm"]
    assert found
    for words in found:
        assert callable(parse(words).run), words


def test_every_make_target_it_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = re.findall(r"^make (\w+)", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert {"demo", "test"} <= set(named)
    assert all(re.search(rf"^{name}:", makefile, re.MULTILINE) for name in named)

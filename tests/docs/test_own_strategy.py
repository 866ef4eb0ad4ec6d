"""The example of a rule of one's own: the command at its head compares it with ours."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from checkfree.core.records import of_kind, read
from tests.process.command import TEXT, prepare, run

SCRIPT = Path(__file__).parents[2] / "experiments" / "own_strategy.py"


@pytest.mark.skipif(not SCRIPT.exists(), reason="needs the checkout's experiments")
def test_its_command_compares_it_with_ours(tmp_path: Path) -> None:
    """On a small model, of which a stage is lost."""
    shutil.copy(SCRIPT, prepare(tmp_path))
    (line,) = re.findall(r"^    (checkfree compare .*)$", SCRIPT.read_text(), re.M)
    program, *words = shlex.split(line.replace(":Mix", "':Mix(before=0.7)'"))
    assert program == "checkfree" and words[1] == "demo"
    small = ("small.yaml", "iterations=8", f"data.path={TEXT}", "--out=compared")
    lost = "failures.probability=0.2"
    told = run(tmp_path, words[0], small[0], *words[2:], *small[1:], lost).stdout
    (row,) = [row for row in told.splitlines() if row.startswith("own_strategy:Mix(before=0.7)")]
    assert "+" in row or "-" in row
    (folder,) = (tmp_path / "compared" / "runs").glob("own_strategy*/*")
    made = of_kind(read(folder), "recovery")
    assert made
    assert {one["rule"] for repair in made for one in repair["rebuilds"].values()} == {"mix"}
    config = of_kind(read(folder), "config")[0]
    assert config["config"]["recovery"]["options"] == {"before": 0.7}
    assert re.fullmatch(r"[0-9a-f]{12}", config["versions"]["package own_strategy"])
    assert "own_strategy:Mix" in (tmp_path / "compared" / "report.html").read_text()


def test_it_is_short() -> None:
    assert len(SCRIPT.read_text().splitlines()) <= 60

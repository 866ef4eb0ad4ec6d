"""What CONTRIBUTING has one type: every benchmark starts and takes what is told of it, and those
that need no swarm run, at their smallest; what make's targets call is there."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.chaos import SOAK
from tests.docs.commands import ROOT, run_script

BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = sorted(
    path.name for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")
)
MODEL = (
    *("stages=4", "model.blocks=4", "model.width=12", "model.heads=2", "model.hidden=12"),
    *("model.context=16", "microbatches=2", "batch=1"),
)
SMALLEST = {
    "gpu.py": ("demo", "devices=[cpu]", "precision=fp32", "iterations=5", *MODEL),
    "overhead.py": ("--iterations=5", *MODEL),
    "rebuild.py": ("--rounds=1", "--width=32"),
    "replay.py": ("--pairs=2", "--iterations=8", "--replays=2", *MODEL),
    "schedule.py": ("--sizes=1",),
    "shadow.py": ("--iterations=90", "shadow", *MODEL[2:], "stages=1", "model.blocks=1"),
    "stash.py": ("--iterations=1", *MODEL),
    "simulator.py": ("--rounds=1", "--iterations=3", "--simulated=50", *MODEL),
}
"""All others have processes of their own, for minutes; tests/process/test_soak.py runs two."""
SHORTEST = [
    *SMALLEST.items(),
    # Half a minute: most of it compiles.
    *[("gpu.py", ("--options", "demo", "devices=[cpu]", "iterations=5", *MODEL))] * SOAK,
]
ALONE = ("rebuild.py",)
"""It tells the allocator what to do, for the life of its process."""

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TARGETS = sorted(set(re.findall(r"^    make (\w+)", TEXT, re.MULTILINE)))

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hivemind") is None, reason="hivemind is not installed"
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_says_what_it_takes(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With all that its own first lines, CONTRIBUTING and the Makefile show of it."""
    run_script(BENCHMARKS / script, ["--help"], monkeypatch)
    takes = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    shown = [*(BENCHMARKS / script).read_text(encoding="utf-8").split("\n\n")[1:2]]
    for text in (TEXT, (ROOT / "Makefile").read_text(encoding="utf-8")):
        shown += re.findall(rf"benchmarks/{script}(.*)", text)
    assert takes >= {option for text in shown for option in re.findall(r"--[a-z-]+", text)}


@pytest.mark.parametrize("script, words", SHORTEST)
def test_a_benchmark_runs_at_its_smallest(
    script: str,
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if script in ALONE:
        command = [sys.executable, str(BENCHMARKS / script), *words]
        subprocess.run(command, check=True, timeout=120)
    else:
        run_script(BENCHMARKS / script, words, monkeypatch)
    assert re.search(r"\d\.\d", capfd.readouterr().out)


def test_contributing_names_them_all() -> None:
    assert sorted(re.findall(r"python benchmarks/(\w+\.py)", TEXT)) == SCRIPTS


def test_what_make_test_and_the_like_are_is_run() -> None:
    """By .ci/run, which runs the tests, too; and soak by who has hours."""
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert set(re.findall(r"^make (\w+)", ci, re.MULTILINE)) == {*TARGETS} - {"soak"}


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("target", [*TARGETS, "demo", "swarm-demo", "help"])
def test_what_a_target_calls_is_there(target: str) -> None:
    """Every file of ours in the commands that it would run."""
    said = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    words = [word for line in said.replace("\\\n", " ").splitlines() for word in shlex.split(line)]
    ours = ("tests", "benchmarks", "configs", "docs", "checkfree", "constraints.txt")
    named = [word for word in words if word.partition("/")[0] in ours]
    assert not [word for word in named if not (ROOT / word).exists()]

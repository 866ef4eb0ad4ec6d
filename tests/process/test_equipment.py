"""A run that is begun on one kind of processor, and gone on with, joined or verified on another."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkfree.cli import main
from checkfree.core.records import of_kind, read
from checkfree.session.job import versions
from tests.chaos import SOAK
from tests.process.command import (
    DEADLINE,
    checkfree_command,
    environment,
    last_tick,
    run,
    start_until,
    wait_until,
)
from tests.process.test_swarm_stop import SMALL, Fleet

LESS = {"ATEN_CPU_CAPABILITY": "default"}
"""torch computes as it would on a processor without AVX."""
WARNING = r"cpu \w+ \(\w+ at first\)"

pytestmark = pytest.mark.skipif(
    versions()["cpu"] in ("DEFAULT", "NO AVX"), reason="this processor can no less than others"
)


def less(cwd: Path, *words: str) -> subprocess.Popen[str]:
    """``checkfree WORDS``, on less of a processor: no fork of one that has imported torch."""
    return subprocess.Popen(
        checkfree_command(*words),
        cwd=cwd,
        env={**environment(), **LESS},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def told_by(process: subprocess.Popen[str]) -> str:
    """All that it said, when it has ended well."""
    told, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, told
    return told


def test_who_goes_on_elsewhere_says_so_and_verify_names_it(folder: Path) -> None:
    words = ("small.yaml", "out=run", "resume.every=5", "iterations=20")
    begun = start_until(11, folder, "train", *words, folder="run")
    begun.kill()
    begun.communicate()
    warned = told_by(less(folder, "train", "--resume", "run"))
    line = f"^this process computes with {WARNING}: bits may differ$"
    assert len(re.findall(line, warned, re.M)) == 1
    first, second = of_kind(read(folder / "run"), "process")
    (resumed,) = of_kind(read(folder / "run"), "resume")
    assert first["equipment"]["cpu"] != second["equipment"]["cpu"]
    assert second["iteration"] == resumed["iteration"] > 0
    assert [name for name, _, _ in second["differs"]] == ["cpu"] and "differs" not in first
    made = run(folder, "verify", "run", expect=None)
    told = made.stdout + made.stderr
    assert f"cpu was DEFAULT from iteration {second['iteration']} on, and is " in told
    if made.returncode:
        at = int(re.findall(r"after (\d+) equal iterations", told)[0])
        assert at >= second["iteration"] and "most likely because cpu was" in told
    else:
        assert "losses equal bit for bit, though cpu was DEFAULT" in told
    run(folder, "report", "run", "--out", "page")
    (page,) = (folder / "page").rglob("*.html")
    assert "not all was trained with the same cpu" in page.read_text()


def test_other_threads_are_warned_of_too(folder: Path) -> None:
    words = ("small.yaml", "out=run", "resume.every=5", "iterations=12")
    begun = start_until(6, folder, "train", *words, folder="run")
    begun.kill()
    begun.communicate()
    told = run(folder, "train", "--resume", "run", "threads=2").stderr
    assert "this process computes with threads 2 (1 at first): bits may differ" in told


@pytest.fixture
def fleet(folder: Path) -> Iterator[Fleet]:
    if importlib.util.find_spec("hivemind") is None:
        pytest.skip("hivemind is not installed")
    made = Fleet(folder)
    try:
        yield made
    finally:
        made.end()


@pytest.mark.skipif(not SOAK, reason="40 seconds: CHECKFREE_SOAK=1")
def test_who_joins_on_something_else_is_told_of_on_both_sides(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    lead = fleet.lead("small.yaml", *SMALL, "iterations=100000", "out=run", "--wait=1")
    fleet.join("a", "--seats=3")
    fleet.comes_to(2, lead)
    late = less(fleet.folder, *fleet.line, "--seats=2")
    try:
        wait_until(lambda: " computes with cpu " in fleet.said("lead"), lead)
        fleet.comes_to(last_tick(fleet.run) + 2, lead)
    finally:
        assert main(["swarm", "stop", str(fleet.run), "--all"]) == 0
        told, _ = late.communicate(timeout=DEADLINE)
        lead.wait()
    assert re.search(f"this node computes with {WARNING}: bits may differ", told)
    assert re.search(rf"\d\.0 computes with {WARNING}: bits may differ", fleet.said("lead"))
    members = of_kind(read(fleet.run), "process")
    found = {(who["seat"], who.get("life", 0)): who["equipment"]["cpu"] for who in members}
    assert {seat for seat, _ in found} == {"0.0", "1.0", "2.0"} and len(set(found.values())) == 2
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(fleet.folder)
        main(["verify", "run", "--quiet"])
    said = capsys.readouterr()
    assert re.search(r"cpu was DEFAULT at seat \d\.0 from iteration \d+ on", said.out + said.err)

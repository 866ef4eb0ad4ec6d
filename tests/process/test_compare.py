"""Comparisons as their users have them: killed, interrupted, taken up again, added to, reported."""

from __future__ import annotations

import json
import shlex
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from checkfree.config.load import load
from checkfree.core.records import of_kind, read
from checkfree.session.train import train
from tests.process.command import (
    DEADLINE,
    checkfree_command,
    descendants,
    end_of,
    finished,
    last_tick,
    losses,
    numbers,
    prepare,
    run,
    start,
    wait_until,
)

TRACE = [{"iteration": 3, "stage": 2}, {"iteration": 14, "stage": 4}]
"""CheckFree mends the first and can't mend the second, which is at the edge."""

COMPARE = """\
compare:
  strategies: [redundant]
  seeds: 2
  results: kept
  workers: 2
"""

WORDS = ("iterations=18", "resume.every=3", "validation.every=6", "failures=trace.json")


def compare(*words: str, out: str) -> tuple[str, ...]:
    return "compare", "both.yaml", f"--out={out}", *words, *WORDS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the comparisons run."""
    prepare(tmp_path)
    (tmp_path / "trace.json").write_text(json.dumps({"failures": TRACE}))
    (tmp_path / "both.yaml").write_text((tmp_path / "small.yaml").read_text() + COMPARE)
    return tmp_path


def by_itself(folder: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same run, trained alone and by nobody disturbed."""
    monkeypatch.chdir(folder)
    config = load(folder / "cut/runs" / place / "config.yaml", [f"out=alone/{place}"])
    return folder / train(config).folder


def wait_for_the_end_of(processes: Sequence[int]) -> None:
    end = time.monotonic() + DEADLINE
    while any(is_alive(number) for number in processes):
        assert time.monotonic() < end, "a child survived"
        time.sleep(0.01)


def is_alive(number: int) -> bool:
    """Neither gone nor a zombie that nobody has asked about."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def trained(text: str) -> list[str]:
    """The runs that a comparison told of, one a line: "3/6  checkfree, seed 0: …"."""
    lines = [line.partition("  ")[2] for line in text.splitlines() if line[:1].isdigit()]
    return sorted(line.partition(":")[0] for line in lines)


def test_killed_interrupted_and_gone_on_with(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = folder / "cut/runs"
    words = compare("--workers=1", out="cut")
    process = start(folder, checkfree_command(*words))
    wait_until(lambda: last_tick(runs / "no_failure/seed-0") >= 4, process)
    running = descendants(process.pid)
    process.kill()
    finished(process, -signal.SIGKILL)
    assert len(running) >= 2  # what forks, and what trains
    wait_for_the_end_of(running)

    process = start(folder, checkfree_command(*words))
    wait_until(lambda: last_tick(runs / "redundant/seed-0") >= 4, process)
    running = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    line = finished(process, 130).stderr.splitlines()[-1]
    wait_for_the_end_of(running)
    assert line.startswith("checkfree: interrupted; go on: checkfree compare both.yaml ")
    assert set(compare(out="cut")) <= set(shlex.split(line)) | {"--out=cut"}
    run(folder, *compare(out="cut"))

    for place in ("no_failure/seed-0", "no_failure/seed-1", "redundant/seed-0"):
        assert numbers(runs / place) == numbers(by_itself(folder, place, monkeypatch)), place
    made = by_itself(folder, "redundant/seed-1", monkeypatch)
    assert_reused(runs / "redundant/seed-1", made)
    assert_one_more(folder)


def assert_reused(cut: Path, whole: Path) -> None:
    """Redundant computation's second seed was not trained, and is what training gives."""
    assert read(cut)[0]["reused"] == "no_failure/seed-1"
    assert not (cut / "weights").exists()
    assert losses(cut) == losses(whole)
    assert numbers(cut)["failures"] == numbers(whole)["failures"]
    known = {v["tick"]: v["loss"] for v in of_kind(read(whole), "validation")}
    told = {v["tick"]: v["loss"] for v in of_kind(read(cut), "validation")}
    assert told == known
    ends = [end_of(folder) for folder in (cut, whole)]
    assert len({(end["status"], end["iteration"], end["tick"]) for end in ends}) == 1


def assert_one_more(folder: Path) -> None:
    """A strategy that is added is all that trains, and the rest need not even be there but in the
    compact results; a run that could not be saved is a result."""
    made = run(folder, *compare("--strategies=redundant,checkfree", "--seeds=1", out="more"))
    assert trained(made.stderr) == ["checkfree, seed 0"]
    assert "no_failure is trained too" in made.stderr
    (row,) = (line for line in made.stdout.splitlines() if line.startswith("checkfree"))
    assert row.rstrip().endswith("at 14")
    assert end_of(folder / "more/runs/checkfree/seed-0")["reason"] in made.stderr
    assert made.stdout.splitlines()[-1] == "more/report.html"
    assert (folder / "more/report.html").is_file()
    assert len(list((folder / "kept").rglob("*.jsonl.gz"))) == 5

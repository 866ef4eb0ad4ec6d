"""The recorder: times, rates, listeners, and a disk that takes no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from checkfree.core.ops import Recipe
from checkfree.core.records import (
    FailureRecord,
    IterationRecord,
    PlanRecord,
    RebuiltSeat,
    Record,
    RecoveryRecord,
    ResumeRecord,
    ValidationRecord,
    read,
)
from checkfree.messages.control import Note, Stop
from checkfree.runtime.recorder import Recorder

STEP = IterationRecord(3, 5, 1, 2.5, {"0": 1.0}, {"0": 1.0}, 12, 4, 3)


def halving(iteration: int) -> float:
    return 2.0**-iteration


def test_each_note_becomes_a_line_at_once(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    recorder = Recorder(path, halving)
    for number in range(3):
        recorder.deliver(Note(number, ResumeRecord(number, number)))
        assert recorder.advance() is None
        assert [record["tick"] for record in read(path)] == list(range(number + 1))
    recorder.close()
    recorder.close()


def test_what_is_no_note_is_not_written(tmp_path: Path) -> None:
    """In a swarm, whoever belongs to it may send it anything."""
    recorder = Recorder(tmp_path / "records.jsonl", halving)
    recorder.deliver(Stop())
    recorder.close()
    assert (tmp_path / "records.jsonl").read_bytes() == b""


def test_a_step_gets_its_rate_and_its_time(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "records.jsonl", halving)
    for number in range(2):
        recorder.deliver(Note(number, STEP))
    recorder.close()
    for record in read(tmp_path / "records.jsonl"):
        assert record["lr"] == 0.125 and record["seconds"] >= 0


def test_a_recovery_lasts_from_its_failure_to_its_plan(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "records.jsonl", halving)
    made = {"2.0": RebuiltSeat(Recipe("average"))}
    notes = (
        FailureRecord(3, 5, 1, ("2.0",), (2,)),
        PlanRecord(2, 3, 5, {}, made),
        ValidationRecord(3, 5, 2.5, after_repair=True),
        RecoveryRecord(3, 5, 2, 3, made, 0, 0),
    )
    for number, record in enumerate(notes):
        recorder.deliver(Note(number, record))
    recorder.close()
    failure, plan, validation, recovery = read(tmp_path / "records.jsonl")
    assert recovery["seconds"] >= 0 and validation["seconds"] >= 0
    assert failure["seconds"] >= 0 and "seconds" not in plan  # the recovery has the plan's


def test_listeners_hear_what_was_written(tmp_path: Path) -> None:
    heard: list[Record] = []
    recorder = Recorder(tmp_path / "records.jsonl", halving, [heard.append])
    recorder.deliver(Note(0, STEP))
    recorder.close()
    (record,) = heard
    assert isinstance(record, IterationRecord) and record.lr == 0.125


def test_a_resumed_run_writes_after_what_stands_there(tmp_path: Path) -> None:
    for tick in range(2):
        recorder = Recorder(tmp_path / "records.jsonl", halving)
        recorder.write(ResumeRecord(tick, tick))
        recorder.close()
    assert [record["tick"] for record in read(tmp_path / "records.jsonl")] == [0, 1]


FULL = """
import resource, sys
from pathlib import Path
from checkfree.core.errors import RunFailed
from checkfree.core.records import ResumeRecord
from checkfree.runtime.recorder import Recorder

path, tries = Path(sys.argv[1]), int(sys.argv[2])
recorder = Recorder(path, lambda iteration: 0.0)
for tick in range(3):
    recorder.write(ResumeRecord(0, tick))
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 9, hard))
for tick in range(tries):
    try:
        recorder.write(ResumeRecord(0, 1000 + tick))
    except RunFailed:
        print("full")
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
if len(sys.argv) > 3:
    recorder.write(ResumeRecord(0, 7))
recorder.close()
"""


def fill_up(path: Path, tries: int, *more: str) -> list[int]:
    """Three lines, then a disk that takes nine bytes more, then room again. The ticks read back."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path), str(tries), *more],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "full\n" * tries), done.stderr
    assert path.read_bytes().endswith(b"\n") and b"\0" not in path.read_bytes()
    return [record["tick"] for record in read(path)]


@pytest.mark.parametrize("tries", [1, 2])
def test_a_full_disk_leaves_the_lines_before_it_whole(tmp_path: Path, tries: int) -> None:
    assert fill_up(tmp_path / "records.jsonl", tries) == [0, 1, 2]


@pytest.mark.parametrize("tries", [1, 2])
def test_once_there_is_room_again_whole_lines_follow(tmp_path: Path, tries: int) -> None:
    assert fill_up(tmp_path / "records.jsonl", tries, "go on") == [0, 1, 2, 7]

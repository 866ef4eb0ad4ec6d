"""Logs on a disk, in real processes: nothing is left of them, and a disk that fills up ends no
run."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkfree.core.records import of_kind, read
from tests.chaos import SOAK
from tests.process.command import (
    DEADLINE,
    checkfree_command,
    descendants,
    finished,
    last_tick,
    numbers,
    only_line,
    run,
    start,
    wait_until,
)
from tests.process.small_disk import NoMount, SmallDisk, small_disk
from tests.process.test_full_disk import needs_hivemind
from tests.process.test_swarm import (
    PATIENT,
    assert_nothing_left,
    begin,
    in_one_process,
    kill,
    swarm,
    trains,
    up,
)
from tests.process.test_swarm_stop import Fleet, fleet

__all__ = ["fleet", "swarm"]

RECOVERY = "recovery=replay(wave_lag=2,wave_every=12)"
REPLAYED = (
    *("recovery=replay(wave_lag=2,wave_every=3)", "failures=none"),
    *("microbatches=2", "validation.every=0", "resume.every=0"),
)
LOSSES = [(14, 2), (17, 0), (23, 3), (23, 4)]


@pytest.fixture
def disk(folder: Path) -> Iterator[SmallDisk]:
    try:
        with small_disk(folder / "disk", 16 << 20) as made:
            yield made
    except NoMount as reason:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no small disk to fill: {reason}")


def logs_of(pid: int, path: Path) -> int:
    """Files without a name that a process has open there."""
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except OSError:
            continue
        found += target.startswith(f"{path}/") and target.endswith("(deleted)")
    return found


def used(disk: SmallDisk) -> int:
    status = os.statvfs(disk.view)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def test_nothing_is_left_by_who_is_killed(folder: Path, disk: SmallDisk) -> None:
    words = ["train", "small.yaml", RECOVERY, f"recovery.log_path={disk.path}", "out=run"]
    process = start(folder, [*disk.prefix, *checkfree_command(*words, "iterations=2000")])
    wait_until(lambda: last_tick(folder / "run") >= 8, process)
    assert logs_of(process.pid, disk.path) == 5 and used(disk) > 0
    assert not list(disk.view.iterdir())
    process.send_signal(signal.SIGKILL)
    finished(process, -signal.SIGKILL)
    assert not list(disk.view.iterdir()) and used(disk) == 0


def test_a_disk_that_fills_up_is_said_once(folder: Path, disk: SmallDisk) -> None:
    entries = [{"iteration": tick, "stage": stage} for tick, stage in LOSSES]
    (folder / "losses.json").write_text(json.dumps({"failures": entries}))
    words = ["train", "small.yaml", RECOVERY, "failures=losses.json", "--quiet"]
    run(folder, *words, "out=memory")
    where = [f"recovery.log_path={disk.path}", "out=run"]
    process = start(folder, [*disk.prefix, *checkfree_command(*words, *where)])
    wait_until(lambda: last_tick(folder / "run") >= 6, process)
    process.send_signal(signal.SIGSTOP)
    disk.fill(0)
    process.send_signal(signal.SIGCONT)
    line = only_line(finished(process))
    assert f"recovery.log_path={disk.path}: No space left on device: what it does not" in line
    assert numbers(folder / "run") == numbers(folder / "memory")
    assert len(of_kind(read(folder / "run"), "recovery")) == len(LOSSES) - 1


@pytest.mark.parametrize(
    "words",
    [
        "train small.yaml recovery=replay out=new",
        pytest.param("swarm up small.yaml recovery=replay out=new", marks=needs_hivemind),
        pytest.param(
            "swarm lead --workers 1 small.yaml recovery=replay out=new", marks=needs_hivemind
        ),
        "compare small.yaml --strategies replay --out new",
    ],
)
def test_a_folder_that_is_not_there(folder: Path, words: str) -> None:
    line = only_line(run(folder, *words.split(), "recovery.log_path=gone", expect=2))
    assert "recovery.log_path=gone: No such file or directory (on this machine): give a" in line
    assert not (folder / "new").exists()


def test_a_swarm_writes_its_logs_there(swarm: Path) -> None:
    """Each process its own; and what was sent is in them still when a stage is replayed."""
    (swarm / "logs").mkdir()
    recovery = ("recovery=replay(wave_lag=2,wave_every=3)", "validation.every=4", "resume.every=0")
    words = ("iterations=40", *recovery)
    where = f"recovery.log_path={swarm}/logs"
    process = begin(swarm, *up(*words, where, "--chaos", "--link=latency=5ms", PATIENT), tick=4)
    for victims in (("2.0",), ("0.0",), ("3.0", "lead")):
        for victim in victims:
            kill(swarm, process, victim)
        trains(swarm, process, 2)
    finished(process, 0)
    alone = in_one_process(swarm, *words)
    assert numbers(swarm / "run")["weights"] == numbers(alone)["weights"]
    assert not list((swarm / "logs").iterdir())
    assert_nothing_left(swarm)


@pytest.mark.skipif(not SOAK, reason="half a minute: CHECKFREE_SOAK=1")
@needs_hivemind
def test_a_node_may_have_that_disk_elsewhere(fleet: Fleet) -> None:
    """Or none: a folder of the lead's name is nowhere, which only who has not said so is told."""
    where, run_words = fleet.folder / "nvme", ("stages=2", "iterations=120", *REPLAYED)
    where.mkdir()
    lead = fleet.lead("small.yaml", *run_words, "recovery.log_path=gone", "out=run", "--wait=2")
    line = only_line(run(fleet.folder, *fleet.line, expect=2))
    assert "recovery.log_path=gone: No such file or directory (on this machine): give --log" in line
    looked = run(fleet.folder, "doctor", "--join", *fleet.line[2:], "--log-path=null").stdout
    assert "its lead answers, and the data are here" in looked
    fleet.join("a", "--host=a", "--seats=2", "--log-path=nvme")
    fleet.join("b", "--host=b", "--seats=2", "--log-path=null")
    fleet.comes_to(8, lead)
    written = {
        name: sum(logs_of(pid, where) for pid in descendants(node.pid))
        for name, node in fleet.nodes.items()
    }
    assert written["a"] in (1, 2) and written["b"] == 0
    fleet.nodes["a"].kill()
    fleet.join("c", "--host=c", "--seats=2", "--log-path=nvme")
    assert lead.wait(DEADLINE) == 0
    recoveries = of_kind(read(fleet.run), "recovery")
    rules = {how["rule"] for made in recoveries for how in made["rebuilds"].values()}
    assert rules == {"replay"} and not list(where.iterdir())
    alone = in_one_process(fleet.folder, *run_words)
    assert numbers(fleet.run)["weights"] == numbers(alone)["weights"]

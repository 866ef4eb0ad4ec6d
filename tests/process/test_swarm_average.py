"""The running average of a swarm's run: that of one process, whoever was killed, the launcher
too."""

from __future__ import annotations

import importlib.util
import json
import signal
from pathlib import Path

import pytest

from checkfree.core.records import of_kind, read
from tests.chaos import SOAK
from tests.process.command import end_of, finished, run
from tests.process.test_swarm import (
    PATIENT,
    assert_nothing_left,
    begin,
    in_one_process,
    replays,
    swarm,
    up,
)

__all__ = ["swarm"]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hivemind") is None, reason="hivemind is not installed"
)

WORDS = (
    "iterations=18",
    "recovery=replay(wave_lag=2,wave_every=3)",
    "resume.every=6",
    "average.every=2",
    "average.last=4",
)


@pytest.mark.skipif(not SOAK, reason="half a minute: CHECKFREE_SOAK=1")
def test_it_is_that_of_one_process(swarm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [{"iteration": tick, "stage": stage} for tick, stage in ((6, 0), (9, 2), (13, 4))]
    (swarm / "losses.json").write_text(json.dumps({"failures": entries}))
    process = begin(swarm, *up("failures=losses.json", *WORDS, PATIENT), tick=10)
    process.kill()
    finished(process, -signal.SIGKILL)
    run(swarm, "swarm", "up", "--resume", "run", "--quiet", PATIENT)
    assert end_of(swarm / "run")["status"] == "done"
    alone = in_one_process(swarm, *WORDS)
    found, expected = (
        {file.name: file.read_bytes() for file in (folder / "merged/average").glob("stage-*")}
        for folder in (swarm / "run", alone)
    )
    assert len(found) == 5 and found == expected
    one, other = (of_kind(read(folder), "average") for folder in (swarm / "run", alone))
    assert one == other and one[0]["iterations"] == [12, 14, 16, 18]
    assert_nothing_left(swarm)
    replays(swarm, capsys)
    made = run(swarm, "merge", "run", "--last", "3", "--json")
    assert [s["iteration"] for s in json.loads(made.stdout)["states"]] == [14, 16, 18]


def test_a_state_that_was_damaged_is_told(swarm: Path) -> None:
    """As in one process: the run is over, its weights are stored, and its records say why there is
    no average."""
    words = ("iterations=16", "average.every=4", "average.last=4", "resume.every=0")
    process = begin(swarm, *up(*words, PATIENT), tick=6)
    file = swarm / "run" / "average" / "00000004" / "stage-1.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    told = finished(process, 1)
    assert "average/00000004/stage-1.safetensors is damaged" in told.stderr
    end = end_of(swarm / "run")
    assert end["status"] == "failed" and "average/00000004" in end["reason"]
    assert (swarm / "run" / "weights" / "manifest.json").is_file()
    assert_nothing_left(swarm)

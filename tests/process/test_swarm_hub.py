"""A swarm that trains a model of the Hub from its folder, through real losses."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from checkfree.core.records import of_kind, read
from tests.chaos import SOAK
from tests.contract.hub_models import folder_with
from tests.process.command import TEXT, end_of, finished, numbers, run
from tests.process.test_swarm import (
    PATIENT,
    assert_nothing_left,
    begin,
    kill,
    replays,
    swarm,
    trains,
    up,
)

__all__ = ["swarm"]

HUB = """\
iterations: 14
stages: 4
microbatches: 4
batch: 1
model: {family: hf, path: model, context: 16}
data: {name: text, path: %s}
validation: {every: 5, microbatches: 2}
resume: {every: 5}
recovery: replay(wave_lag=2)
failures: none
"""


@pytest.fixture
def hub(swarm: Path) -> Path:
    """A folder to run in: a text, a model, and a configuration that trains the one on the other."""
    (swarm / "small.yaml").write_text(HUB % TEXT)
    folder_with("gpt2", swarm / "model")
    return swarm


def test_the_numbers_of_one_process(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stage is lost before the first wave, read from the folder again and replayed; another and
    stage 0 later."""
    losses = [{"iteration": tick, "stage": stage} for tick, stage in ((2, 3), (8, 0), (11, 1))]
    (hub / "losses.json").write_text(json.dumps({"failures": losses}))
    run(hub, *up("failures=losses.json", PATIENT))
    assert end_of(hub / "run")["status"] == "done"
    run(hub, "train", "small.yaml", "out=alone", "failures=losses.json")
    assert numbers(hub / "run") == numbers(hub / "alone")
    made = of_kind(read(hub / "run"), "recovery")
    assert [how["rule"] for m in made for how in m["rebuilds"].values()] == ["replay"] * 3
    assert_nothing_left(hub)
    replays(hub, capsys)


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
@pytest.mark.skipif(not SOAK, reason="a minute: CHECKFREE_SOAK=1")
def test_compiled_in_16_bits(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The seats are forks of a process that has compiled, and come to the numbers of another."""
    words = ("precision=bf16_weights", "compile=true", "failures=losses.json")
    losses = [{"iteration": tick, "stage": stage} for tick, stage in ((8, 0), (11, 1))]
    (hub / "losses.json").write_text(json.dumps({"failures": losses}))
    run(hub, *up(*words, PATIENT))
    assert end_of(hub / "run")["status"] == "done"
    run(hub, "train", "small.yaml", "out=alone", *words)
    assert numbers(hub / "run") == numbers(hub / "alone")
    made = of_kind(read(hub / "run"), "recovery")
    assert [how["rule"] for m in made for how in m["rebuilds"].values()] == ["replay"] * 2
    replays(hub, capsys)


@pytest.mark.skipif(not SOAK, reason="half a minute: CHECKFREE_SOAK=1")
def test_killed_and_resumed_where_the_folder_is_now(
    hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = begin(hub, *up("iterations=60", "--chaos", PATIENT), tick=7)
    kill(hub, process, "2.0")
    trains(hub, process, 2)
    process.send_signal(signal.SIGTERM)
    finished(process, None)
    shutil.move(hub / "model", hub / "elsewhere")
    resume = ("swarm", "up", "--resume", "run", "--quiet")
    told = run(hub, *resume, expect=2).stderr
    assert "model.path=model: no such folder" in told and "takes model.path=" in told
    assert told.count("\n") == 1
    folder_with("gpt2", hub / "model", seed=1)
    assert "other weights than the run began with" in run(hub, *resume, expect=2).stderr
    run(hub, *resume, "model.path=elsewhere")
    assert end_of(hub / "run")["status"] == "done"
    assert_nothing_left(hub)
    replays(hub, capsys)

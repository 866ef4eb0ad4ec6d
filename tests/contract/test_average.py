"""``average.every``: a running average that changes no bit of a run, and survives what it does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import checkfree
from checkfree.cli import main
from checkfree.core.errors import BadInput
from checkfree.core.records import RECORDS, IterationRecord, Record, of_kind
from checkfree.messages.control import AVERAGE, RESUME
from checkfree.runtime.files import DiskFiles
from checkfree.runtime.store import Store
from tests.contract.small import text, trace
from tests.tiny import Body, Edge, batches

TREE: dict[str, Any] = {
    "iterations": 12,
    "stages": 3,
    "microbatches": 2,
    "batch": 2,
    "model": {"width": 16, "heads": 2, "hidden": 32, "blocks": 3, "context": 16},
    "failures": {"scenario": "none"},
    "validation": {"every": 4, "microbatches": 2},
    "resume": {"every": 2, "keep": 6},
    "recovery": {"name": "none"},
}
ASKED = {"average": {"every": 2, "last": 3}}
HITS = ((3, 2), (7, 1), (9, 3))


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Any]:
    return {**TREE, "data": text(tmp_path / "a.txt")["data"], "out": str(tmp_path / "run")}


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> checkfree.Run:
    """A run that lost nothing, with its average."""
    folder = tmp_path_factory.mktemp("average")
    data = text(folder / "a.txt")["data"]
    return checkfree.train({**TREE, **ASKED, "data": data, "out": str(folder / "calm")})


def average(run: checkfree.Run) -> dict[str, bytes]:
    """Its files, by name."""
    files = sorted((run.folder / "merged" / "average").glob("*.safetensors"))
    assert len(files) == len(list(run.folder.glob("weights/*.safetensors")))
    return {file.name: file.read_bytes() for file in files}


def test_it_is_the_mean_of_the_last_states(calm: checkfree.Run) -> None:
    store = Store(DiskFiles(calm.folder))
    assert store.offered(AVERAGE) == (6, 8, 10)
    for stage in range(4):
        last = safetensors.torch.load_file(calm.folder / "weights" / f"stage-{stage}.safetensors")
        several = [store.load(RESUME, shelf, stage).params for shelf in (8, 10)]
        made = store.weights(stage, "merged/average")
        for name in several[0]:
            exact = torch.stack([one[name].double() for one in (*several, last)]).mean(0)
            torch.testing.assert_close(made[name].double(), exact, rtol=6e-8, atol=0)
        assert not store.load(AVERAGE, 10, stage).moments
    (record,) = of_kind(calm.records, "average")
    assert record["iterations"] == [8, 10, 12]
    assert store.note("merged/average", 0)["loss"] == record["loss"]


def test_it_changes_no_bit(calm: checkfree.Run, tree: dict[str, Any]) -> None:
    other = checkfree.train(tree)
    assert other.losses == calm.losses
    weights = [
        {file.name: file.read_bytes() for file in (run.folder / "weights").glob("*.safetensors")}
        for run in (calm, other)
    ]
    assert weights[0] == weights[1]
    assert not of_kind(other.records, "average") and not (other.folder / "merged").exists()


def test_its_loss_is_that_of_a_validation(tree: dict[str, Any]) -> None:
    """Of one state it is that of the last weights."""
    run = checkfree.train({**tree, "average": {"every": 4, "last": 1}})
    (record,) = of_kind(run.records, "average")
    assert record["iterations"] == [12]
    last = of_kind(run.records, "validation")[-1]["loss"]
    assert record["loss"] == pytest.approx(last, rel=1e-7)


@pytest.mark.parametrize(
    "recovery",
    [
        pytest.param({"name": "checkpoint", "interval": 5}, id="rolled back"),
        pytest.param({"name": "redundant"}, id="from copies"),
        pytest.param({"name": "replay", "wave_lag": 1, "wave_every": 2}, id="replayed"),
    ],
)
def test_a_run_that_loses_stages_has_the_same(
    recovery: dict[str, Any], calm: checkfree.Run, tree: dict[str, Any], tmp_path: Path
) -> None:
    hits = {"scenario": trace(tmp_path / "hits.json", *HITS), "stages": "all"}
    run = checkfree.train({**tree, **ASKED, "recovery": recovery, "failures": hits})
    assert len(of_kind(run.records, "failure")) == len(HITS)
    assert average(run) == average(calm)
    assert of_kind(run.records, "average") == of_kind(calm.records, "average")
    assert checkfree.verify(run.folder).difference == ""


def test_states_that_are_stored_once_more_count(tree: dict[str, Any], tmp_path: Path) -> None:
    """Lost right after a state was stored, the run goes back to one before it, which is stored at
    a later tick then; no snapshot or checkpoint has it by the end."""
    often = {**tree, "average": {"every": 1, "last": 12}, "resume": {"every": 0}}
    hits = {"scenario": trace(tmp_path / "hits.json", (3, 1)), "stages": "all"}
    safe = {"name": "checkpoint", "interval": 2}
    calm = checkfree.train({**often, "out": str(tmp_path / "undisturbed")})
    run = checkfree.train({**often, "recovery": safe, "failures": hits})
    ticks = [record["tick"] for record in of_kind(run.records, "iteration")]
    assert ticks[2:5] == [2, 3, 4] and len(ticks) == 13
    (record,) = of_kind(run.records, "average")
    assert record["iterations"] == [*range(1, 13)]
    assert average(run) == average(calm)


@pytest.mark.parametrize("stops_at", [1, 7, 10])
def test_so_does_one_that_is_stopped_and_goes_on(
    stops_at: int, calm: checkfree.Run, tree: dict[str, Any]
) -> None:
    class Stop(Exception):
        pass

    def stop(record: Record) -> None:
        if isinstance(record, IterationRecord) and record.iteration == stops_at:
            raise Stop

    with pytest.raises(Stop):
        checkfree.train({**tree, **ASKED, "resume": {"every": 3}}, listeners=[stop])
    run = checkfree.resume(tree["out"])
    assert average(run) == average(calm)
    again = checkfree.resume(tree["out"])  # a run that is done makes it once more
    assert average(again) == average(calm) and len(of_kind(again.records, "average")) == 1


def test_a_swap_of_one_bit_of_it_is_verified(calm: checkfree.Run, tmp_path: Path) -> None:
    run = Path(shutil.copytree(calm.folder, tmp_path / "run"))
    lines = (run / RECORDS).read_text().splitlines()
    changed = [json.loads(line) for line in lines]
    for record in changed:
        if record["kind"] == "average":
            record["loss"] += 1e-9
    (run / RECORDS).write_text("".join(json.dumps(record) + "\n" for record in changed))
    assert "the average until 12, loss" in checkfree.verify(run).difference


def test_a_run_begins_from_it(calm: checkfree.Run, tree: dict[str, Any]) -> None:
    child = checkfree.train({**tree, "init": f"{calm.folder}@average", "iterations": 1})
    assert child.records[0]["init"]["iteration"] == 12


def test_a_run_too_short_has_none(tree: dict[str, Any]) -> None:
    run = checkfree.train({**tree, "iterations": 3, "average": {"every": 4}})
    assert run.status == "done" and not of_kind(run.records, "average")
    short = checkfree.train(
        {**tree, "iterations": 5, "average": {"every": 4}, "out": f"{tree['out']}-2"}
    )
    assert of_kind(short.records, "average")[0]["iterations"] == [4]


def test_modules_of_ones_own_have_one(tmp_path: Path) -> None:
    tree = {"iterations": 6, "average": {"every": 2}, "failures": {"scenario": "none"}}
    modules, feed = [Edge(), Body(), Body()], batches(0, "train")
    told = []
    for out, validation in (("a", feed), ("b", None)):
        run = checkfree.train(
            {**tree, "out": str(tmp_path / out)},
            stages=modules,
            batches=feed,
            validation=validation,
        )
        told += [record["loss"] for record in of_kind(run.records, "average")]
    assert isinstance(told[0], float) and told[1] is None


def test_a_state_that_was_damaged_is_told(tree: dict[str, Any]) -> None:
    """Training is over by then: its weights are stored, and the line says which state it is."""
    file = Path(tree["out"]) / AVERAGE / "00000010" / "stage-1.safetensors"

    def damage(record: Record) -> None:
        if isinstance(record, IterationRecord) and record.iteration == 11:
            file.write_bytes(file.read_bytes()[:-1])

    with pytest.raises(BadInput, match=r"average/00000010/stage-1.safetensors"):
        checkfree.train({**tree, **ASKED, "resume": {"every": 0}}, listeners=[damage])
    assert of_kind(checkfree.read(tree["out"]), "end")[-1]["status"] == "failed"
    assert (Path(tree["out"]) / "weights" / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"every": 0}, "average.every=0: expected a whole number of at least 1"),
        ({"every": 2, "last": 0}, "average.last=0: expected a whole number of at least 1"),
    ],
)
def test_what_cannot_be_asked_for(asked: dict[str, int], told: str, tree: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=told):
        checkfree.train({**tree, "average": asked})


def test_its_name_is_its_own(calm: checkfree.Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", str(calm.folder), "--to", "average"]) == 2
    assert "--to average is what average.every has a run make" in capsys.readouterr().err

"""``checkfree merge``: averages of what a run has saved, told on text that chose no weight."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

import checkfree
from checkfree.cli import main
from checkfree.config.load import load_saved
from checkfree.core.errors import BadInput, RunFailed
from checkfree.core.records import of_kind
from checkfree.messages.control import RESUME, Purpose
from checkfree.runtime import store as stores
from checkfree.runtime.files import DiskFiles
from checkfree.runtime.folder import locked
from checkfree.runtime.store import Store
from checkfree.session import merge as merging
from checkfree.session.job import of_config
from checkfree.session.merging.averages import PipelineLoss
from checkfree.session.merging.text import identities, parted
from checkfree.session.saved import saved
from checkfree.stage import Part, Stage
from tests.contract.small import text, trace
from tests.tiny import Body, Edge, batches

TREE: dict[str, Any] = {
    "iterations": 12,
    "stages": 3,
    "microbatches": 2,
    "batch": 2,
    "model": {"width": 16, "heads": 2, "hidden": 32, "blocks": 3, "context": 16},
    "failures": {"scenario": "none"},
    "validation": {"every": 2, "microbatches": 2},
    "resume": {"every": 2, "keep": 5},
    "recovery": {"name": "none"},
}
QUICK = {"generations": 2, "population": 4}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merge")
    checkfree.train({**TREE, "data": text(folder / "a.txt")["data"], "out": str(folder / "run")})
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, which a test may spoil."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def stage_of(run: Path, shelf: int, stage: int) -> dict[str, Tensor]:
    state = Store(DiskFiles(run)).load(RESUME, shelf, stage)
    return {**state.params, **state.buffers}


def manifest(made: checkfree.Merged) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((made.folder / "manifest.json").read_text())["note"]
    return found


# --- what comes of it ----------------------------------------------------------------------------


def test_the_mean_of_the_last_states(run: Path) -> None:
    made = checkfree.merge(run, last=3)
    assert [(s.iteration, s.kind) for s in made.states] == [
        (8, "snapshot"),
        (10, "snapshot"),
        (12, "weights"),
    ]
    assert made.weights == (1 / 3,) * 3 and made.reference == f"{run}@uniform"
    for stage in range(4):
        last = safetensors.torch.load_file(run / "weights" / f"stage-{stage}.safetensors")
        several = [stage_of(run, 8, stage), stage_of(run, 10, stage), last]
        average = safetensors.torch.load_file(made.folder / f"stage-{stage}.safetensors")
        assert average.keys() == last.keys()
        for name, tensor in average.items():
            exact = torch.stack([one[name].double() for one in several]).mean(0)
            torch.testing.assert_close(tensor.double(), exact, rtol=6e-8, atol=0)


def test_the_manifest_tells_how_it_was_made(run: Path) -> None:
    made = checkfree.merge(run, last=4, rule="metric", penalty=20, to="mine")
    told = manifest(made)
    assert told["rule"] == "metric" and told["options"] == {"penalty": 20}
    assert [s["iteration"] for s in told["states"]] == [6, 8, 10, 12]
    assert [s["weight"] for s in told["states"]] == list(made.weights)
    assert [s["loss"] for s in told["states"]] == list(made.losses or ())
    assert told["archives"][0] == Store(DiskFiles(run)).digest(RESUME, 6)
    assert told["loss"] == made.loss
    assert made.weights[-1] > made.weights[0] > 0  # the loss fell


def test_losses_are_those_of_a_validation(run: Path) -> None:
    """On the run's own microbatches, those that its records have."""
    config = load_saved(run / "config.yaml")
    job = of_config(config, run, (), whole=False)
    states = merging._Work(run, Store(DiskFiles(run)), merging._newest(run, 3, config), "", {}, _)
    feed = job.feeds[Purpose.VALIDATE]
    found = PipelineLoss(job.worker_context, 4).losses(states.reads, [feed(0, 0), feed(0, 1)])
    then = {r["iteration"]: r["loss"] for r in of_kind(checkfree.read(run), "validation")}
    assert found == pytest.approx([then[8], then[10], then[12]], rel=1e-6)
    held = PipelineLoss(job.worker_context, 4, held=True)
    assert held.losses(states.reads[:1], [feed(0, 0), feed(0, 1)]) == found[:1]


def _(label: str, steps: int) -> Callable[[], None]:
    return lambda: None


def test_a_search_is_no_worse_where_it_chose_and_the_same_each_time(run: Path) -> None:
    one = checkfree.merge(run, rule="search", **QUICK)
    other = checkfree.merge(run, rule="search", to="again", **QUICK)
    assert one.weights == other.weights and one.loss == other.loss
    assert sum(one.weights) == pytest.approx(1)
    assert len(manifest(one)["chose"]) == one.chosen_by > 0


def test_a_run_begins_from_an_average(run: Path, tmp_path: Path) -> None:
    made = checkfree.merge(run, last=3)
    tree = {**TREE, "data": text(tmp_path / "a.txt")["data"], "iterations": 2, "stages": 1}
    child = checkfree.train(
        {**tree, "init": {"run": made.reference, "data": "continue"}, "out": str(tmp_path / "c")}
    )
    began = child.records[0]["init"]
    assert (began["kind"], began["iteration"], began["optimizer"]) == ("average", 12, False)
    assert began["sha256"] == Store(DiskFiles(run)).digest("merged/uniform", 0)
    shutil.rmtree(run)
    assert checkfree.verify(child.folder).difference == ""
    resumed = checkfree.resume(child.folder)
    assert resumed.status == "done"


def test_only_the_course_that_the_run_took_is_merged(tmp_path: Path) -> None:
    """It went back at tick 9 from 9 to 6: the snapshot of 8 iterations before is of another one."""
    data = text(tmp_path / "a.txt")["data"]
    hits = trace(tmp_path / "hits.json", (9, 2))
    back = {"name": "checkpoint", "interval": 6}
    tree = {**TREE, "data": data, "recovery": back, "failures": {"scenario": hits}}
    tree["resume"] = {"every": 4, "keep": 9}
    run = checkfree.train({**tree, "out": str(tmp_path / "run")}).folder
    known = [(s.tick, s.iteration) for s in saved(run)]
    assert (8, 8) in known and (12, 9) in known
    states = merging._newest(run, 4, load_saved(run / "config.yaml"))
    assert [(s.tick, s.iteration) for s in states] == [(4, 4), (6, 6), (12, 9), (15, 12)]


# --- which text ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["metric", "search"])
def test_no_text_that_chose_the_weights_is_reported_on(
    rule: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what stages are really given, up to the choice and after it."""
    seen: list[set[str]] = [set(), set()]
    chosen: list[bool] = []
    evaluate = Stage.evaluate

    def watched(stage: Stage, part: Part, x: Any, batch: Any, seed: int) -> Tensor:
        if batch is not None:
            seen[bool(chosen)] |= {*identities([batch])}
        return evaluate(stage, part, x, batch, seed)

    def choosing(name: str) -> None:
        choose = getattr(merging, name)

        def chooses(*given: Any, **more: Any) -> Any:
            made = choose(*given, **more)
            chosen.append(True)
            return made

        monkeypatch.setattr(merging, name, chooses)

    monkeypatch.setattr(Stage, "evaluate", watched)
    choosing("by_metric" if rule == "metric" else "search")
    made = checkfree.merge(run, rule=rule, **(QUICK if rule == "search" else {}))
    told = manifest(made)
    assert chosen == [True]
    assert (seen[0], seen[1]) == ({*told["chose"]}, {*told["reported"]})
    assert seen[0] and seen[1] and not seen[0] & seen[1]
    assert (made.chosen_by, made.reported_on) == (len(told["chose"]), len(told["reported"]))


def test_whatever_the_rule_the_same_text_reports(run: Path) -> None:
    several = [checkfree.merge(run, rule=rule) for rule in ("uniform", "metric")]
    one, other = map(manifest, several)
    assert one["reported"] == other["reported"] and not one["chose"]
    assert several[0].losses == several[1].losses


def test_a_text_of_one_sequence_is_refused(run: Path) -> None:
    job = of_config(load_saved(run / "config.yaml"), run, (), whole=False)
    assert len(parted(job.feeds[Purpose.VALIDATE], 1).reporting) == 1
    with pytest.raises(BadInput, match=r"1 sequence to merge by.*raise --microbatches"):
        parted(lambda i, m: job.feeds[Purpose.VALIDATE](i, m)[:1], 1)


# --- refused, in a line --------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *words: object, code: int = 2) -> str:
    capsys.readouterr()
    assert main(["merge", *map(str, words)]) == code
    told = capsys.readouterr()
    assert told.out == "" and told.err.splitlines()[-1].startswith("checkfree: ")
    assert "Traceback" not in told.err
    return told.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--last=9",), "states of 6 iterations: 2 (snapshot), 4 (snapshot)"),
        (("--last=9",), "train it with resume.keep=9 and resume.every=N; or merge what is there"),
        (("--last=1",), "--last=1: expected a whole number of at least 2"),
        (("--rule=best",), "--rule=best: expected one of uniform, metric, search"),
        (("--to=../up",), "--to ../up: expected a name of up to 64 letters"),
        (("--to=500",), "--to 500: expected a name of up to 64 letters"),
        (("--penalty=3",), "--penalty goes with --rule metric: leave it out of uniform"),
        (("--rule=metric", "--penalty=nan"), "--penalty=nan: expected a number of at least 0"),
        (("--rule=metric", "--population=9"), "--population goes with --rule search"),
        (("--rule=search", "--population=2"), "--population=2: expected a whole number of at"),
        (("--rule=search", "--population=100000000"), "--population=100000000: expected at most"),
        (("--rule=search", "--generations=100000000"), "--generations=100000000: expected at most"),
        (("--microbatches=0",), "--microbatches=0: expected a whole number of at least 1"),
        (("--microbatches=100000000",), "--microbatches=100000000: expected at most 100000"),
        (("iterations=9",), "a run that goes on takes data.path"),
    ],
)
def test_what_cannot_be_merged_so(
    words: tuple[str, ...], told: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refused(capsys, run, *words)
    assert not (run / "merged").exists()


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no run folder" in refused(capsys, tmp_path / "nothing")


def test_a_damaged_snapshot(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run / RESUME / "00000010" / "stage-2.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert "stage-2.safetensors is damaged: its SHA-256 is not" in refused(capsys, run, "--last=3")
    assert not (run / "merged" / "uniform").exists()
    shutil.rmtree(file.parent)
    assert main(["merge", str(run), "--last=3", "--quiet"]) == 0


def test_an_average_that_is_there_already(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkfree.merge(run, last=2)
    assert "merged/uniform stands there already" in refused(capsys, run, "--last=3")
    (run / "merged" / "uniform" / "manifest.json").unlink()  # half of one does not stand
    assert main(["merge", str(run), "--last=3", "--quiet"]) == 0


def test_a_run_that_trains(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(run):
        assert "is being trained by another process" in refused(capsys, run, "--last=2")


def test_a_search_without_the_memory(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "available", lambda: 1000)
    told = refused(capsys, run, "--rule=search")
    assert "holds the weights of 5 states and the model" in told and "--rule metric" in told


def test_states_that_went_too_far(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PipelineLoss, "losses", lambda *given, **more: [float("nan")] * 3)
    assert "has no finite loss, nothing was written" in refused(capsys, run, "--last=2")
    assert not (run / "merged").exists()


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (RunFailed("cannot write it: full"), 1)]
)
def test_nothing_is_left_of_one_that_was_broken_off(
    error: BaseException,
    code: int,
    run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encode = stores.encode_state

    def breaks(state: Any, *, weights_only: bool) -> bytes:
        if (run / "merged" / "uniform" / "stage-1.safetensors").exists():
            raise error
        return encode(state, weights_only=weights_only)

    monkeypatch.setattr(stores, "encode_state", breaks)
    refused(capsys, run, "--last=2", code=code)
    assert not (run / "merged" / "uniform").exists()


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (False, "no average of that name stands there: checkfree merge"),
        (True, "no average of that name stands there: there are"),
    ],
)
def test_an_average_that_nobody_made(made: bool, told: str, run: Path, tmp_path: Path) -> None:
    if made:
        checkfree.merge(run, last=2)
    with pytest.raises(BadInput, match=told):
        checkfree.train({**TREE, "init": f"{run}@mine", "out": str(tmp_path / "child")})


# --- and beside ----------------------------------------------------------------------------------


def test_the_figures_for_programs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", str(run), "--last=2", "--json"]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert found["reference"] == f"{run}@uniform" and found["rule"] == "uniform"
    assert [s["weight"] for s in found["states"]] == [0.5, 0.5]
    assert found["sequences"] == {"chose": 0, "reported": 4}
    assert told.err == ""


def test_as_many_snapshots_stay_as_one_asks_for(run: Path, tmp_path: Path) -> None:
    assert Store(DiskFiles(run)).offered(RESUME) == (2, 4, 6, 8, 10)
    with pytest.raises(BadInput, match=r"resume.keep=0: expected a whole number of at least 1"):
        checkfree.train({**TREE, "resume": {"keep": 0}, "out": str(tmp_path / "none")})


def test_modules_of_ones_own_have_a_mean(tmp_path: Path) -> None:
    tree = {"iterations": 8, "resume": {"every": 2}, "failures": {"scenario": "none"}}
    modules = [Edge(), Body(), Body()]
    feed = batches(0, "train")
    checkfree.train(
        {**tree, "out": str(tmp_path / "own")}, stages=modules, batches=feed, validation=feed
    )
    made = checkfree.merge(tmp_path / "own", last=3)
    assert made.losses is None and made.loss is None and made.reported_on == 0
    with pytest.raises(BadInput, match=r"trained modules of your own.*--rule uniform"):
        checkfree.merge(tmp_path / "own", last=3, rule="metric")
    child = checkfree.train(
        {**tree, "init": made.reference, "iterations": 1, "out": str(tmp_path / "child")},
        stages=modules,
        batches=feed,
    )
    assert child.status == "done" and child.records[0]["init"]["kind"] == "average"

"""A run folder explains itself: with it alone, a reader knows what ran and can use the result."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import checkfree
from checkfree.config.load import build, load
from checkfree.core.config import Config
from checkfree.core.records import Record, of_kind
from checkfree.failures import read_trace, sample, strikes
from checkfree.models.families import family
from checkfree.session.session import Run

VOCABULARY = 256  # of bytes
STAGES, MICROBATCHES, CONTEXT, BATCH, ITERATIONS = 4, 4, 8, 2, 8
KINDS = {kind.kind: kind for kind in Record.__subclasses__()}

Line = Mapping[str, Any]


def settings(folder: Path) -> dict[str, Any]:
    """Two losses and a validation every other iteration."""
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 50)
    lost = [{"iteration": 3, "stage": 2}, {"iteration": 5, "stage": 0}]
    (folder / "lost.json").write_text(json.dumps({"failures": lost}))
    return {
        "iterations": ITERATIONS,
        "stages": STAGES,
        "microbatches": MICROBATCHES,
        "batch": BATCH,
        "out": str(folder / "run"),
        "model": {"width": 8, "heads": 2, "hidden": 8, "blocks": 4, "context": CONTEXT},
        "data": {"name": "text", "path": str(folder / "text.txt")},
        "recovery": {"name": "checkfree_plus"},
        "failures": {"scenario": str(folder / "lost.json")},
        "validation": {"every": 2, "microbatches": 2},
        "resume": {"every": 3},
    }


@pytest.fixture(scope="module")
def heard() -> list[Record]:
    """What the listener of ``run`` was told."""
    return []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, heard: list[Record]) -> Run:
    """A run with two recoveries."""
    folder = tmp_path_factory.mktemp("records")
    return checkfree.train(settings(folder), listeners=[heard.append])


# --- files ---------------------------------------------------------------------------------------


def test_what_stands_in_the_folder(run: Run) -> None:
    found = {path.name for path in run.folder.iterdir() if not path.name.startswith(".")}
    assert found == {
        *("config.yaml", "versions.json", "trace.json", "records.jsonl"),
        *("loss.png", "weights", "resume"),
    }
    assert not list(run.folder.rglob("*.draft")) and not list(run.folder.rglob("*.part"))


def test_the_configuration_runs_again(run: Run, tmp_path: Path) -> None:
    config = load(run.folder / "config.yaml")
    assert config == run.config
    again = checkfree.train(dataclasses.replace(config, out=str(tmp_path / "again")))
    assert again.losses == run.losses


def test_versions_say_what_the_bits_depend_on(run: Run) -> None:
    versions = json.loads((run.folder / "versions.json").read_text())
    assert versions == run.records[0]["versions"]
    assert versions["torch"] == torch.__version__
    assert versions["cpu"] == torch.backends.cpu.get_cpu_capability()
    assert {"checkfree", "numpy", "python", "machine"} <= versions.keys()


def test_the_trace_is_what_struck(run: Run) -> None:
    trace = read_trace(run.folder / "trace.json", STAGES, 1)
    config = run.config
    assert trace == sample(
        config.failures, seed=config.seed, stages=STAGES, replicas=1, ticks=ITERATIONS
    )
    for failure in of_kind(run.records, "failure"):
        assert failure["stages"] == [entry.stage for entry in strikes(trace, failure["tick"])]
    assert len(of_kind(run.records, "failure")) == len(trace) == 2


def test_the_curve_is_a_picture(run: Run) -> None:
    data = (run.folder / "loss.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82")


def test_weights_load_into_the_family(run: Run) -> None:
    model = dataclasses.replace(run.config.model, vocabulary=VOCABULARY)
    assert len(run.stages) == STAGES + 1
    for number, trained in enumerate(run.stages):
        made = family("llama").stage(model, number, STAGES)
        made.load_state_dict(load_file(run.folder / "weights" / f"stage-{number}.safetensors"))
        known = trained.state_dict()
        assert made.state_dict().keys() == known.keys()
        assert all(torch.equal(tensor, known[name]) for name, tensor in made.state_dict().items())


def test_weights_give_the_last_validation_loss(run: Run) -> None:
    """The very numbers that the records end with, from the files alone."""
    from checkfree.data import open_data

    config = load(run.folder / "config.yaml")
    data = open_data(config.data, context=CONTEXT, batch=BATCH, seed=config.seed)
    model = dataclasses.replace(config.model, vocabulary=VOCABULARY)
    edge, *body = (family("llama").stage(model, number, STAGES) for number in range(STAGES + 1))
    for number, stage in enumerate((edge, *body)):
        stage.load_state_dict(load_file(run.folder / "weights" / f"stage-{number}.safetensors"))
    total = 0.0
    for microbatch in range(config.validation.microbatches):
        tokens: Any = data.validation(config.iterations, microbatch)
        hidden = torch.nn.Sequential(*body)(edge.embed(tokens))  # type: ignore[operator]
        total += edge.loss(hidden, tokens).item()  # type: ignore[operator]
    last = of_kind(run.records, "validation")[-1]["loss"]
    assert last == pytest.approx(total / config.validation.microbatches, rel=1e-5)


# --- records -------------------------------------------------------------------------------------


def test_each_line_has_a_kind_and_the_fields_of_that_kind(run: Run) -> None:
    lines = (run.folder / "records.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == run.records
    for record in run.records:
        fields = dataclasses.fields(KINDS[record["kind"]])
        always = {field.name for field in fields if not field.metadata.get("sparse")}
        assert always | {"kind"} <= record.keys() <= {field.name for field in fields} | {"kind"}


def test_the_order_of_kinds(run: Run) -> None:
    kinds = [record["kind"] for record in run.records]
    assert kinds[:4] == ["config", "process", "plan", "validation"]
    assert kinds[-2:] == ["ledger", "end"]
    assert set(kinds) == KINDS.keys() - {"resume", "replay", "average"}
    first, second = (place for place, kind in enumerate(kinds) if kind == "failure")
    assert kinds[first : first + 4] == ["failure", "plan", "validation", "recovery"]
    assert kinds[second : second + 4] == ["failure", "plan", "recovery", "iteration"]  # exact


def test_the_first_line_is_the_resolved_configuration(run: Run) -> None:
    first = run.records[0]
    assert first["kind"] == "config" and build(first["config"]) == run.config
    assert first["config"]["optimizer"]["lr"] == Config().optimizer.lr
    assert first["parameters"] == sum(p.numel() for m in run.stages for p in m.parameters())
    assert first["data"]["name"] == "text"
    assert any("hash" in key or "sha" in key for key in first["data"])


def test_iterations(run: Run) -> None:
    steps = of_kind(run.records, "iteration")
    assert [step["iteration"] for step in steps] == list(range(ITERATIONS))
    assert [step["tick"] for step in steps] == list(range(ITERATIONS))
    assert run.losses == [step["loss"] for step in steps]
    seats = {str(stage) for stage in range(STAGES + 1)}
    for step in steps:
        assert step["tokens"] == MICROBATCHES * BATCH * CONTEXT
        assert step["forwards"] == MICROBATCHES * (STAGES + 2) and step["redundant_forwards"] == 0
        assert step["lr"] == run.config.optimizer.lr and step["alive"] == STAGES + 1
        assert step["gradient_norms"].keys() == step["clip"].keys() == seats
        assert all(norm > 0 for norm in step["gradient_norms"].values())
        assert step["seconds"] > 0
    for stage, norm in steps[0]["gradient_norms"].items():
        assert steps[0]["clip"][stage] == pytest.approx(min(1.0, 1.0 / norm), rel=1e-4)


def test_floats_have_all_their_digits(run: Run, heard: list[Record]) -> None:
    told = [record.loss for record in heard if record.kind == "iteration"]  # type: ignore[attr-defined]
    assert run.losses == told
    assert math.log(VOCABULARY) == pytest.approx(told[0], rel=0.02)
    # All digits: what is written is the very double, and most doubles take more than ten.
    assert sum(len(repr(loss)) > 12 for loss in told) > ITERATIONS / 2


def test_listeners_hear_every_record_in_order(run: Run, heard: list[Record]) -> None:
    assert [record.kind for record in heard] == [record["kind"] for record in run.records]


def test_failures_and_recoveries(run: Run) -> None:
    lost, restored = of_kind(run.records, "failure")
    assert (lost["iteration"], lost["tick"], lost["seats"], lost["stages"]) == (3, 3, ["2.0"], [2])
    assert (restored["iteration"], restored["seats"], restored["stages"]) == (5, ["0.0"], [0])
    repairs = of_kind(run.records, "recovery")
    for repair in repairs:
        assert repair["resume_at"] == repair["iteration"] and repair["lost_iterations"] == 0
        assert repair["validation_before"] > 0
        assert repair["seconds"] > 0
        made = repair["rebuilds"].values()
        assert repair["bytes"] == sum(one["bytes"] for one in made) > 0
    (made,) = repairs[0]["rebuilds"].values()
    assert made["rule"] == "partner copy" and made["weights"] == [1.0]
    assert made["sources"] == [{"holder": "1.0", "stage": 1, "version": 3}]
    assert repairs[0]["validation_after"] > 0
    (made,) = repairs[1]["rebuilds"].values()
    assert made["rule"] == "embedding copy" and made["sources"][0]["stage"] == 0
    assert repairs[1]["validation_after"] is None  # it is exact


def test_a_recovery_names_the_validations_around_it(run: Run) -> None:
    for place, record in enumerate(run.records):
        if record["kind"] != "recovery":
            continue
        after = run.records[place - 1]
        if record["validation_after"] is not None:
            assert after["kind"] == "validation" and after["after_repair"]
            assert record["validation_after"] == after["loss"]
        before = [
            known
            for known in of_kind(run.records[:place], "validation")
            if not known["after_repair"] and known["tick"] <= record["tick"]
        ]
        assert record["validation_before"] == before[-1]["loss"]


def test_validations(run: Run) -> None:
    passes = of_kind(run.records, "validation")
    planned = [record["iteration"] for record in passes if not record["after_repair"]]
    assert planned == [0, 2, 4, 6, 8]
    assert [record["iteration"] for record in passes if record["after_repair"]] == [3]


def test_the_end_sums_up(run: Run) -> None:
    ledger, end = run.records[-2:]
    steps = of_kind(run.records, "iteration")
    assert (end["status"], end["reason"]) == ("done", "")
    assert (end["iteration"], end["tick"]) == (ITERATIONS, ITERATIONS)
    assert [(made["tick"], made["rules"]) for made in end["recoveries"]] == [
        (3, {"2.0": "partner copy"}),
        (5, {"0.0": "embedding copy"}),
    ]
    assert ledger["ops"]["forwards"] == sum(step["forwards"] for step in steps)
    assert ledger["messages"]["StateRequest"] == 2
    assert ledger["bytes"]["StateReply"] == sum(
        made["bytes"] for made in of_kind(run.records, "recovery")
    )
    assert ledger["seconds"].keys() == {"iteration", "validation", "recovery"}
    assert 0 < sum(ledger["seconds"].values()) <= end["seconds"]


# --- other runs ----------------------------------------------------------------------------------


def test_a_failed_run_explains_itself_too(tmp_path: Path) -> None:
    given = settings(tmp_path) | {"recovery": {"name": "checkfree"}}
    run = checkfree.train(given)
    assert run.status == "failed" and "stage 0" in run.reason
    assert run.records[-1]["reason"] == run.reason and len(run.losses) == 5
    assert load(run.folder / "config.yaml") == run.config
    assert (run.folder / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_is_used_once(tmp_path: Path) -> None:
    given = settings(tmp_path) | {"iterations": 1, "failures": {"scenario": "none"}}
    checkfree.train(given)
    before = (tmp_path / "run" / "records.jsonl").read_bytes()
    with pytest.raises(checkfree.BadInput, match=r"holds a run already.*--resume"):
        checkfree.train(given)
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == before

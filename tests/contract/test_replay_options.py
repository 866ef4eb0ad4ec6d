"""Stages that are replayed come back to the last bit, whatever the run is configured to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import checkfree
from checkfree.core.ops import Kind, Op
from checkfree.core.records import of_kind
from checkfree.lead.iteration import course_on
from checkfree.recovery.wrappers import make_strategy
from checkfree.session import session
from checkfree.session.terms import seats, terms_of
from tests.contract.small import small, text, trace

LOSSES = ((2, 0), (5, 2), (5, 3), (8, 1), (9, 4))
"""Stage 0, two beside each other, and each end: most of them from a wave."""

OPTIONS: dict[str, dict[str, Any]] = {
    "as usual": {},
    "fill and drain": {"schedule": "gpipe"},
    "backwards split": {"schedule": "zb_h1"},
    "backwards split, recomputed": {
        "schedule": "zb_h2",
        "model": {"dropout": 0.2},
        "recompute": [0, 2],
    },
    "8 bits there, 16 back": {"wire": {"activations": "int8", "gradients": "bf16"}},
    "4 bits": {"wire": {"activations": "int4", "gradients": "int4"}},
    "8 bits there, 4 back with feedback": {
        "wire": {"activations": "int8", "gradients": "int4", "feedback": True}
    },
    "16 bits there, 8 back": {"wire": {"activations": "fp16", "gradients": "int8"}},
    "one clip for all": {"optimizer": {"clip": 0.05, "clip_over": "global"}},
    "one clip each": {"optimizer": {"clip": 0.05}},
    "dropout": {"model": {"dropout": 0.2}},
    "dropout, recomputed": {"model": {"dropout": 0.2}, "recompute": [1, 3]},
    "tied": {"model": {"tied": True}},
    "gpt": {"model": {"family": "gpt"}},
    "cosine": {"optimizer": {"schedule": "cosine", "warmup": 3, "min_lr": 0.1}},
    "weight decay": {"optimizer": {"name": "adamw", "weight_decay": 0.1}},
    "sgd": {"optimizer": {"name": "sgd", "momentum": 0.0, "lr": 0.05}},
    "momentum": {"optimizer": {"name": "sgd", "lr": 0.05}},
    "muon": {"optimizer": {"name": "muon", "weight_decay": 0.1}},
    "more stages than microbatches": {"microbatches": 2},
    "one microbatch": {"microbatches": 1},
    "validated in between": {"validation": {"every": 1, "microbatches": 1}},
    "bf16": {"precision": "bf16"},
    "bf16 weights": {"precision": "bf16_weights"},
    "bf16 weights, recomputed, 8 bits there": {
        **{"precision": "bf16_weights", "recompute": True, "model": {"dropout": 0.1}},
        "wire": {"activations": "int8"},
    },
    "fp64": {"precision": "fp64"},
    "two copies": {"recovery": {"copies": 2}},
    "rare waves": {"recovery": {"wave_every": 7}},
    "a net below": {"checkpoint": {"every": 3}},
}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures take longer than the runs."""
    monkeypatch.setattr(session, "draw", lambda folder: folder)
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", OPTIONS)
def test_what_comes_back_is_what_was_lost(name: str, tmp_path: Path) -> None:
    shared = text(tmp_path / "text")
    lossy = {"failures": {"scenario": trace(tmp_path / "lost.json", *LOSSES)}}
    base = {"iterations": 11, "recovery": {"name": "replay", "wave_lag": 1}}

    def train(out: str, failures: dict[str, Any]) -> checkfree.Run:
        return checkfree.train(small(tmp_path / out, base, shared, OPTIONS[name], failures))

    plain, run = train("plain", {}), train("lossy", lossy)
    assert run.status == plain.status == "done", run.reason
    assert run.losses == plain.losses
    digests = [r["digests"] for r in of_kind(run.records, "iteration")]
    assert digests == [r["digests"] for r in of_kind(plain.records, "iteration")]
    assert len(digests[-1]) == run.config.stages + 1
    made = [how for r in of_kind(run.records, "recovery") for how in r["rebuilds"].values()]
    assert len(made) == len(LOSSES)
    assert {how["rule"] for how in made} == {"replay"}
    assert sum(bool(how["sources"]) for how in made) >= 2
    if name != "validated in between":
        assert not [r for r in of_kind(run.records, "validation") if r["after_repair"]]
    for one, other in zip(run.stages, plain.stages, strict=True):
        pairs = zip(one.parameters(), other.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_replicas_by_flow(tmp_path: Path) -> None:
    """A stage of which one replica had no microbatch, or fewer than the other."""
    shared = text(tmp_path / "text")
    lost = trace(tmp_path / "lost.json", (4, 2), (6, 0))
    base = {
        "iterations": 8,
        "replicas": 3,
        "routes": "flow",
        "recovery": {"name": "replay", "wave_lag": 1},
    }
    plain, run = (
        checkfree.train(small(tmp_path / out, base, shared, failures))
        for out, failures in (("plain", {}), ("lossy", {"failures": {"scenario": lost}}))
    )
    digests = [[r["digests"] for r in of_kind(each.records, "iteration")] for each in (plain, run)]
    assert digests[0] == digests[1]
    first = of_kind(run.records, "recovery")[0]["rebuilds"]
    assert {how["rule"] for how in first.values()} == {"replay"}
    every, terms = seats(run.config), terms_of(run.config, 1)
    routes = terms.routes(every, run.config.microbatches)
    course = course_on(routes, make_strategy(run.config.recovery), terms.schedule, every)
    assert (Op(Kind.REDUCE),) in course.schedule.values(), "all are visited"


@pytest.mark.parametrize("stages", [1, 2])
def test_few_stages(stages: int, tmp_path: Path) -> None:
    shared = text(tmp_path / "text")
    losses = [(3, 1), (6, 0)]
    sizes = {"stages": stages, "model": {"blocks": 4}}
    base = {"iterations": 8, "recovery": {"name": "replay", "wave_lag": 1}, **sizes}
    runs = [
        checkfree.train(small(tmp_path / out, base, shared, failures))
        for out, failures in (
            ("plain", {}),
            ("lossy", {"failures": {"scenario": trace(tmp_path / "lost.json", *losses)}}),
        )
    ]
    assert runs[0].losses == runs[1].losses
    assert len(of_kind(runs[1].records, "recovery")) == 2


def test_it_goes_on_from_a_snapshot(tmp_path: Path) -> None:
    """What is lost before the first wave of a resumed run begins with that snapshot."""
    shared = text(tmp_path / "text")
    base = {
        "iterations": 12,
        "resume": {"every": 3},
        "recovery": {"name": "replay", "wave_lag": 3},
    }
    plain = checkfree.train(small(tmp_path / "plain", base, shared))
    lost = trace(tmp_path / "lost.json", (7, 2), (7, 3), (8, 0))
    config = small(tmp_path / "run", base, shared, {"failures": {"scenario": lost}})

    class Stop(Exception):
        pass

    def stop(record: Any) -> None:
        if record.kind == "iteration" and record.iteration == 6:
            raise Stop

    with pytest.raises(Stop):
        checkfree.train(config, listeners=[stop])
    run = checkfree.resume(tmp_path / "run")
    assert run.status == "done", run.reason
    assert run.losses[-6:] == plain.losses[-6:]
    sources = [
        source
        for r in of_kind(run.records, "recovery")
        for how in r["rebuilds"].values()
        for source in how["sources"]
    ]
    assert any(source["holder"] == "store" for source in sources), sources
    for one, other in zip(run.stages, plain.stages, strict=True):
        pairs = zip(one.parameters(), other.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_a_run_that_began_with_anothers_state(tmp_path: Path) -> None:
    """Version 0 is not what the seed makes then."""
    shared = text(tmp_path / "text")
    checkfree.train(small(tmp_path / "parent", {"iterations": 3}, shared))
    base = {
        "iterations": 5,
        "init": {"run": str(tmp_path / "parent")},
        "recovery": {"name": "replay", "wave_lag": 4},
    }
    plain = checkfree.train(small(tmp_path / "plain", base, shared))
    lost = {"failures": {"scenario": trace(tmp_path / "lost.json", (1, 2), (2, 0), (2, 1))}}
    run = checkfree.train(small(tmp_path / "run", base, shared, lost))
    assert run.status == "done", run.reason
    assert run.losses == plain.losses


def test_the_snapshot_that_replays_begin_with_is_kept(tmp_path: Path) -> None:
    """Newer ones push it out before the first wave counts, else."""
    shared = text(tmp_path / "text")
    base = {
        "iterations": 14,
        "resume": {"every": 1},
        "recovery": {"name": "replay", "wave_lag": 5},
    }
    plain = checkfree.train(small(tmp_path / "plain", base, shared))
    lost = trace(tmp_path / "lost.json", (9, 2), (10, 0))
    config = small(tmp_path / "run", base, shared, {"failures": {"scenario": lost}})

    class Stop(Exception):
        pass

    def stop(record: Any) -> None:
        if record.kind == "iteration" and record.iteration == 5:
            raise Stop

    with pytest.raises(Stop):
        checkfree.train(config, listeners=[stop])
    run = checkfree.resume(tmp_path / "run")
    assert run.status == "done", run.reason
    assert run.losses == plain.losses[-len(run.losses) :]
    made = [how for r in of_kind(run.records, "recovery") for how in r["rebuilds"].values()]
    assert [how["sources"][0]["holder"] for how in made] == ["store", "store"]


def test_the_checkpoint_that_replays_begin_with_is_kept(tmp_path: Path) -> None:
    """All went back to it; what is lost soon after is replayed from it."""
    shared = text(tmp_path / "text")
    base = {
        "iterations": 14,
        "checkpoint": {"every": 1},
        "recovery": {"name": "replay", "wave_lag": 4},
    }
    plain = checkfree.train(small(tmp_path / "plain", base, shared))
    all_at_once = [(9, stage) for stage in range(5)]
    lost = trace(tmp_path / "lost.json", *all_at_once, (12, 2))
    run = checkfree.train(small(tmp_path / "run", base, shared, {"failures": {"scenario": lost}}))
    assert run.status == "done", run.reason
    assert run.losses == plain.losses
    made = [how["rule"] for r in of_kind(run.records, "recovery") for how in r["rebuilds"].values()]
    assert made == ["checkpoint"] * 5 + ["replay"]

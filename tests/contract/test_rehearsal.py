"""What is simulated is what trains: the same records, and the same bytes, message by message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import checkfree
from checkfree.config.load import build
from checkfree.core.records import dumps, of_kind
from checkfree.session.price import price
from checkfree.session.rehearsal import rehearse

SIZE = {
    "iterations": 14,
    "stages": 4,
    "microbatches": 4,
    "batch": 1,
    "model": {"width": 8, "heads": 2, "hidden": 8, "blocks": 4, "context": 8},
    "optimizer": {"lr": 1e-3},
    "validation": {"every": 5, "microbatches": 2},
    "resume": {"every": 4},
}
EVERYWHERE = {"probability": 0.05, "stages": "all", "seed": 1}
CLOCK = {"scenario": "clock", "rate_per_hour": 0.5, "stages": "all", "seed": 2}
SLOW = {"sizes": "own", "flops": 2e3}
RUNS: dict[str, dict[str, Any]] = {
    "no failure": {"recovery": "none"},
    "checkfree": {"failures": {**EVERYWHERE, "stages": "middle", "seed": 3}},
    "checkfree, moments averaged": {
        "recovery": "checkfree(optimizer=average)",
        "failures": {**EVERYWHERE, "stages": "middle", "seed": 3},
    },
    "checkfree_plus": {"recovery": "checkfree_plus", "failures": EVERYWHERE},
    "checkpoint": {"recovery": "checkpoint(interval=4)", "failures": EVERYWHERE},
    "average": {
        "recovery": "checkpoint(interval=4)",
        "failures": EVERYWHERE,
        "average": {"every": 3, "last": 2},
    },
    "redundant": {"recovery": "redundant", "failures": EVERYWHERE},
    "redundant, backwards split": {
        "schedule": "zb_h1",
        "recovery": "redundant",
        "failures": EVERYWHERE,
    },
    "random": {"recovery": "random", "failures": EVERYWHERE},
    "zero, net below": {"recovery": "zero", "failures": EVERYWHERE, "checkpoint": {"every": 3}},
    "copy": {"recovery": "copy", "failures": {**EVERYWHERE, "stages": "body"}},
    "shadow": {"recovery": "shadow(shadow_every=5)", "failures": {**EVERYWHERE, "seed": 4}},
    "shadow, signs": {
        "iterations": 24,
        "recovery": "shadow(shadow_every=5,shadow_format=signs)",
        "failures": {**EVERYWHERE, "seed": 2, "first": 6},
    },
    "auto, signs, replicas, net below": {
        "iterations": 24,
        "replicas": 2,
        "recovery": "auto(shadow_every=5,shadow_format=signs)",
        "failures": {**EVERYWHERE, "scenario": "nodes", "seats_per_node": 1, "probability": 0.1},
        "checkpoint": {"every": 5},
    },
    "replay": {"recovery": "replay(wave_lag=2)", "failures": EVERYWHERE},
    "replay, backwards split": {
        "schedule": "zb_h2",
        "recovery": "replay(wave_lag=2)",
        "failures": EVERYWHERE,
    },
    "replay, two chunks": {
        "model": {**SIZE["model"], "blocks": 8},  # type: ignore[dict-item]
        "schedule": "zbv",
        "recovery": "replay(wave_lag=1,wave_every=3)",
        "failures": EVERYWHERE,
    },
    "auto, two chunks, replicas, by flow, swapped": {
        "model": {**SIZE["model"], "blocks": 8},  # type: ignore[dict-item]
        "replicas": 2,
        "routes": "flow",
        "schedule": "interleaved",
        "recovery": "auto(shadow_every=5,swap=true)",
        "failures": {**EVERYWHERE, "scenario": "nodes", "seats_per_node": 1, "probability": 0.1},
    },
    "replay, replicas, little memory, net below": {
        "replicas": 2,
        "recovery": "replay(wave_lag=1,wave_every=3,log_memory=4096,copies=2)",
        "failures": {**EVERYWHERE, "scenario": "nodes", "seats_per_node": 1, "probability": 0.1},
        "checkpoint": {"every": 5},
    },
    "auto, replays": {
        "iterations": 24,
        "recovery": "auto(shadow_every=5,log_memory=16384,wave_lag=1,wave_every=2)",
        "failures": {**EVERYWHERE, "probability": 0.12},
        "checkpoint": {"every": 7},
    },
    "fit": {"recovery": "fit", "failures": {**EVERYWHERE, "stages": "body"}},
    "auto": {"recovery": "auto(shadow_every=6)", "failures": EVERYWHERE},
    "momentum, replicas": {
        "replicas": 2,
        "optimizer": {"name": "sgd", "lr": 1e-2},
        "recovery": "redundant",
        "failures": EVERYWHERE,
    },
    "muon, redundant, replicas": {
        "replicas": 2,
        "optimizer": {"name": "muon", "lr": 1e-3},
        "recovery": "redundant",
        "failures": EVERYWHERE,
    },
    "muon, moments averaged, net below": {
        "model": {**SIZE["model"], "family": "gpt"},  # type: ignore[dict-item]
        "optimizer": {"name": "muon", "lr": 1e-3},
        "recovery": "checkfree(optimizer=average)",
        "failures": {**EVERYWHERE, "stages": "middle", "seed": 3},
        "checkpoint": {"every": 3},
    },
    "sgd, checkpoint": {
        "optimizer": {"name": "sgd", "momentum": 0.0, "lr": 1e-2},
        "recovery": "checkpoint(interval=4)",
        "failures": EVERYWHERE,
    },
    "auto, net below": {
        "recovery": "auto(shadow_every=5,shadow_format=int4)",
        "failures": {**EVERYWHERE, "probability": 0.15},
        "checkpoint": {"every": 5},
    },
    "auto, replicas, little memory": {
        "replicas": 2,
        "recovery": "auto(shadow_every=5,fit_memory=1024,swap=true)",
        "failures": {**EVERYWHERE, "scenario": "nodes", "seats_per_node": 1},
    },
    "replicas": {"replicas": 2, "recovery": "checkfree_plus", "failures": EVERYWHERE},
    "routes by flow, not all replicas visited": {
        "replicas": 3,
        "routes": "flow",
        "recovery": "redundant",
        "failures": {**EVERYWHERE, "scenario": "nodes", "seats_per_node": 1, "probability": 0.1},
    },
    "nearest, replayed": {
        "replicas": 2,
        "routes": "nearest",
        "recovery": "replay(wave_lag=1,wave_every=3)",
        "failures": {**EVERYWHERE, "scenario": "nodes", "seats_per_node": 1, "probability": 0.1},
    },
    "nodes": {
        "replicas": 2,
        "recovery": "redundant",
        "failures": {**EVERYWHERE, "scenario": "nodes", "seats_per_node": 1, "stages": "body"},
    },
    "refused": {"recovery": "none", "failures": {**EVERYWHERE, "seed": 3}},
    "doubles": {"precision": "fp64", "recovery": "redundant", "failures": EVERYWHERE},
    "weights of 16 bits": {
        "precision": "bf16_weights",
        "recovery": "redundant",
        "failures": EVERYWHERE,
    },
    "weights of 16 bits, replayed": {
        "precision": "bf16_weights",
        "wire": {"gradients": "int8"},
        "recovery": "replay(wave_lag=2)",
        "failures": {**EVERYWHERE, "stages": "all"},
    },
    "int8 there, bf16 back": {
        "wire": {"activations": "int8", "gradients": "bf16"},
        "recovery": "redundant",
        "failures": EVERYWHERE,
    },
    "int4, of odd rows": {
        "model": {**SIZE["model"], "family": "gpt", "width": 9, "heads": 3},  # type: ignore[dict-item]
        "wire": {"activations": "int4", "gradients": "int4"},
        "recovery": "redundant",
        "failures": EVERYWHERE,
    },
    "int4, replayed": {
        "wire": {"activations": "int4", "gradients": "int4", "feedback": True},
        "recovery": "replay(wave_lag=2)",
        "failures": EVERYWHERE,
    },
    "slow links coarser, replicas, swapped": {
        "replicas": 2,
        "wire": "auto",
        "fleet": {"name": "paper", "sizes": "own", "flops": 1e10},
        "recovery": "checkfree_plus",
        "failures": {**EVERYWHERE, "stages": "body"},
    },
    "slow links coarser, searched, replayed, error feedback": {
        "replicas": 2,
        "routes": "flow",
        "wire": {"links": "auto", "feedback": True},
        "fleet": {"name": "paper", "sizes": "own", "flops": 1e10, "placement": "searched"},
        "recovery": "replay(wave_lag=1,wave_every=3)",
        "failures": {**EVERYWHERE, "scenario": "nodes", "seats_per_node": 1, "probability": 0.1},
    },
    "two links in 4 bits, fitted": {
        "wire": {"activations": "bf16", "links": ["1.0>2.0=int4", "2.0>1.0=int4"]},
        "recovery": "auto(shadow_every=6)",
        "failures": EVERYWHERE,
    },
    "doubles, halved": {
        "precision": "fp64",
        "wire": {"gradients": "fp16"},
        "recovery": "checkfree_plus",
        "failures": EVERYWHERE,
    },
    "gpt, tied": {
        "model": {**SIZE["model"], "family": "gpt", "tied": True},  # type: ignore[dict-item]
        "recovery": "checkfree_plus",
        "failures": EVERYWHERE,
    },
    "on the clock": {
        "recovery": "checkfree_plus",
        "failures": CLOCK,
        "fleet": SLOW,
    },
    "checkpoints on the clock": {
        "recovery": "checkpoint(interval=4)",
        "failures": CLOCK,
        "fleet": SLOW,
    },
}
MEASURED = {
    "loss",
    "gradient_norms",
    "clip",
    "validation_before",
    "validation_after",
    "seconds",
    "tokens",
    "digests",
    "lr",
}


@pytest.mark.parametrize("name", RUNS)
def test_a_rehearsal_makes_the_records_and_bytes_of_the_run(name: str, tmp_path: Path) -> None:
    config = build({**SIZE, "fleet": {"sizes": "own"}, "out": str(tmp_path / "run"), **RUNS[name]})
    expected = rehearse(config)
    run = checkfree.train(config)
    assert run.reason == expected.reason
    assert _plans(run.records) == _plans([_read(record) for record in expected.records])
    sent = {kind: n for kind, n in of_kind(run.records, "ledger")[-1]["bytes"].items() if n}
    if "clock" in name:  # there, iterations are cut off that in process never began
        assert sum(expected.priced.messages.values()) > sum(sent.values())
    else:
        assert expected.priced.messages == sent
    if name not in ("no failure",):
        assert expected.trace, "nothing was lost, so nothing was tested"


def test_a_run_is_priced_by_what_it_met(tmp_path: Path) -> None:
    config = build({**SIZE, **RUNS["on the clock"], "out": str(tmp_path / "run")})
    run = checkfree.train(config)
    priced = price(config, run.records)
    assert priced == rehearse(config).priced
    assert priced.seconds["rollback"] > 0, "losses fell into iterations that were under way"


def test_records_that_went_another_way_are_refused(tmp_path: Path) -> None:
    config = build({**SIZE, **RUNS["checkpoint"], "out": str(tmp_path / "run")})
    records = checkfree.train(config).records
    without = [record for record in records if record["kind"] != "failure"]
    with pytest.raises(checkfree.BadInput, match="go another way"):
        price(config, without)


def _read(record: Any) -> dict[str, Any]:
    import json

    return dict(json.loads(dumps(record)))


def _plans(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was decided: everything but what only tensors and a real clock can tell."""
    kinds = ("plan", "iteration", "validation", "failure", "recovery")
    return [
        {key: _decided(value) for key, value in record.items() if key not in MEASURED}
        for record in records
        if record["kind"] in kinds
    ]


def _decided(value: Any) -> Any:
    if isinstance(value, list):
        return [_decided(item) for item in value]
    if not isinstance(value, dict):
        return value
    judged = ("weights", "check", "why")
    return {key: _decided(item) for key, item in value.items() if key not in judged}

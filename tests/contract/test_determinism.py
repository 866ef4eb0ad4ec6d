"""Bit for bit (semantics 17, 18): a seed gives one run, whatever is lost and however messages
travel, and whatever state Python and torch are in.

All of these train with dropout, for that is what a careless generator shows in first.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import checkfree
from checkfree.core.config import Config, RecoveryConfig
from checkfree.core.ops import FAULTS, Address
from checkfree.core.records import dumps, of_kind
from checkfree.data import open_data
from checkfree.messages.control import Purpose
from checkfree.recovery.registry import STRATEGIES
from checkfree.recovery.wrappers import make_strategy
from checkfree.runtime.faults import Faults
from checkfree.runtime.inprocess import InProcess
from checkfree.runtime.store import Store
from checkfree.session.assemble import assemble, make_worker_context
from checkfree.session.blueprint import of_family
from checkfree.session.due import DueFailures
from checkfree.worker import StageWorker
from tests import tiny
from tests.contract.small import small, text, trace

ROOT = Path(__file__).parents[2]


class Case(NamedTuple):
    """A strategy, what it loses, and whether it makes up for that to the last bit."""

    change: dict[str, Any]
    losses: tuple[tuple[int, ...], ...]
    """(tick, stage) or (tick, stage, replica)"""
    exact: bool


BASE: dict[str, Any] = {
    "iterations": 6,
    "model": {"dropout": 0.1},
    "optimizer": {"clip": 0.1},  # so low that copies which forget to clip are others
    "validation": {"every": 3, "microbatches": 2},
}
PLUS = {"recovery": {"name": "checkfree_plus"}}
MUON = {"optimizer": {"name": "muon", "lr": 1e-3}}
TWO = {"schedule": "zbv", "model": {"blocks": 8}}
CASES = {
    "none": Case({"recovery": {"name": "none"}, "replicas": 2}, ((2, 3, 0), (4, 0, 1)), True),
    "checkfree": Case({"recovery": {"name": "checkfree"}}, ((2, 2), (4, 3)), False),
    "checkfree_plus": Case(PLUS, ((2, 1), (3, 0), (4, 3)), False),
    "its embeddings": Case(PLUS, ((2, 0), (4, 0)), True),
    # Three, for two floats have the same sum in both orders; and a float64 holds the exact sum of
    # a few float32.
    "its replicas": Case(
        {**PLUS, "replicas": 3, "precision": "fp64"}, ((2, 1, 1), (4, 0, 0)), True
    ),
    "checkpoint": Case({"recovery": {"name": "checkpoint", "interval": 2}}, ((3, 2), (5, 4)), True),
    "redundant": Case({"recovery": {"name": "redundant"}}, ((2, 0), (4, 3)), True),
    "on a wire of 4 bits": Case(
        {
            "recovery": {"name": "redundant"},
            "wire": {"activations": "int4", "gradients": "int4"},
        },
        ((2, 0), (4, 3)),
        True,
    ),
    "with error feedback, its replicas": Case(
        {
            "recovery": {"name": "none"},
            "replicas": 2,
            "wire": {"activations": "int8", "gradients": "int4", "feedback": True},
        },
        ((2, 3, 0), (4, 0, 1)),
        True,
    ),
    "on a wire of 8 bits": Case(
        {
            "recovery": {"name": "redundant"},
            "wire": {"activations": "int8", "gradients": "int8"},
        },
        ((2, 0), (4, 3)),
        True,
    ),
    "on a wire of 16 bits": Case(
        {**PLUS, "wire": {"activations": "bf16", "gradients": "fp16"}}, ((2, 1), (3, 0)), False
    ),
    "shadow": Case({"recovery": {"name": "shadow", "shadow_every": 5}}, ((3, 0), (5, 2)), False),
    "shadow, of what changed": Case(
        {
            "recovery": {"name": "shadow", "shadow_every": 5, "shadow_format": "signs"},
            "iterations": 13,
        },
        ((9, 1), (11, 2)),
        False,
    ),
    "fit": Case({"recovery": {"name": "fit"}}, ((2, 2), (4, 4)), False),
    "auto": Case(
        {"recovery": {"name": "auto", "shadow_every": 5, "log_memory": 0}},
        ((2, 3), (4, 1), (5, 2), (5, 3)),
        False,
    ),
    "auto, swapped": Case(
        {"recovery": {"name": "auto", "swap": True, "log_memory": 0}, "replicas": 2},
        ((1, 2), (3, 0)),
        False,
    ),
    "auto, replays": Case(
        {"recovery": {"name": "auto", "shadow_every": 5}}, ((2, 3), (4, 1), (5, 2), (5, 3)), True
    ),
    "replay": Case({"recovery": {"name": "replay"}}, ((2, 3), (4, 1), (5, 0), (5, 1)), True),
    "replay, from a wave, with replicas": Case(
        {
            "recovery": {"name": "replay", "wave_lag": 1, "wave_every": 2},
            "replicas": 2,
            "iterations": 8,
        },
        ((3, 2, 0), (4, 2), (6, 3), (6, 4), (7, 0)),
        True,
    ),
    "backwards split, redundant": Case(
        {"recovery": {"name": "redundant"}, "schedule": "zb_h2"}, ((2, 0), (4, 3)), True
    ),
    "backwards split, swapped": Case({**PLUS, "schedule": "zb_h1"}, ((2, 1), (3, 0)), False),
    "backwards split, replay from a wave, with replicas": Case(
        {
            "recovery": {"name": "replay", "wave_lag": 1, "wave_every": 2},
            "schedule": "zb_h1",
            "replicas": 2,
            "iterations": 8,
        },
        ((3, 2, 0), (4, 2), (6, 3), (6, 4), (7, 0)),
        True,
    ),
    "two chunks, swapped": Case(
        {**PLUS, **TWO, "schedule": "interleaved"}, ((2, 1), (3, 0)), False
    ),
    "two chunks, fit": Case({"recovery": {"name": "fit"}, **TWO}, ((2, 2), (4, 1)), False),
    "two chunks, auto, no logs": Case(
        {"recovery": {"name": "auto", "shadow_every": 5, "log_memory": 0}, **TWO},
        ((2, 3), (4, 1), (5, 2), (5, 3)),
        False,
    ),
    "two chunks, replay from a wave, with replicas": Case(
        {
            "recovery": {"name": "replay", "wave_lag": 1, "wave_every": 2},
            **TWO,
            "schedule": "v_half",
            "replicas": 2,
            "iterations": 8,
        },
        ((3, 2, 0), (4, 4), (6, 3), (6, 4), (7, 0)),
        True,
    ),
    "muon, redundant": Case({"recovery": {"name": "redundant"}, **MUON}, ((2, 0), (4, 3)), True),
    "muon, replay": Case({"recovery": {"name": "replay"}, **MUON}, ((2, 3), (4, 0), (5, 1)), True),
    "muon, moments averaged": Case(
        {"recovery": {"name": "checkfree", "optimizer": "average"}, **MUON}, ((2, 2), (4, 3)), False
    ),
    "random": Case({"recovery": {"name": "random"}}, ((2, 2), (4, 0)), False),
    "zero": Case({"recovery": {"name": "zero"}}, ((2, 2), (4, 4)), False),
    "copy": Case({"recovery": {"name": "copy"}}, ((2, 1), (4, 4)), False),
    "uniform": Case({"recovery": {"name": "uniform"}}, ((2, 2), (4, 3)), False),
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


Configure = Callable[..., Config]


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """A case's small run, in a folder of its own."""
    shared = text(tmp_path_factory.mktemp("text") / "text")

    def make(case: Case, *, spared: bool = False, **more: Any) -> Config:
        folder = tmp_path_factory.mktemp("run")
        scenario = "none" if spared else trace(folder / "failures.json", *case.losses)
        failures = {"failures": {"scenario": scenario}}
        return small(folder / "run", BASE, shared, case.change, failures, more)

    return make


@pytest.fixture(scope="module")
def trained(configured: Configure) -> Callable[..., checkfree.Run]:
    """The run of a case, ``spared`` its losses or not. Trained once."""

    @cache
    def train(name: str, *, spared: bool = False) -> checkfree.Run:
        run = checkfree.train(configured(CASES[name], spared=spared))
        assert run.status == "done", run.reason
        return run

    return train


# --- what is compared ----------------------------------------------------------------------------


def story(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """All that the lead wrote down, without what the recorder added: rates and times."""
    kinds = ("plan", "iteration", "validation", "failure", "recovery")
    added = ("seconds", "lr")
    return [
        {key: value for key, value in record.items() if key not in added}
        for record in records
        if record["kind"] in kinds
    ]


def same_weights(one: checkfree.Run, other: checkfree.Run) -> bool:
    pairs = zip(one.stages, other.stages, strict=True)
    return all(
        torch.equal(a, b)
        for first, second in pairs
        for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


def losses_by_iteration(run: checkfree.Run) -> dict[int, set[float]]:
    """More than one loss where an iteration was trained again and came out another way."""
    found: dict[int, set[float]] = {}
    for record in run.records:
        if record["kind"] == "iteration":
            found.setdefault(record["iteration"], set()).add(record["loss"])
    return found


# --- one seed, one run ---------------------------------------------------------------------------


def test_every_strategy_is_among_the_cases() -> None:
    assert {case.change["recovery"]["name"] for case in CASES.values()} == set(STRATEGIES)


def test_a_run_neither_reads_nor_moves_the_state_of_its_process(
    configured: Configure, trained: Callable[..., checkfree.Run]
) -> None:
    """Two runs alike, though generators and threads were others before the second."""
    one = trained("checkfree_plus")
    torch.manual_seed(12345)
    random.seed(12345)
    np.random.seed(12345)
    torch.set_num_threads(2)
    before = generators()
    other = checkfree.train(configured(CASES["checkfree_plus"]))
    assert generators() == before
    assert torch.get_num_threads() == 2
    assert story(one.records) == story(other.records)
    assert same_weights(one, other)


def generators() -> tuple[Any, ...]:
    """The states of all generators that a careless draw would come from."""
    _, numbers, place, *_ = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), numbers.tolist(), place


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"model": {"dropout": 0.0, "vocabulary": 256}}], ids=["seed", "dropout"]
)
def test_another_seed_or_dropout_is_another_run(
    change: dict[str, Any], configured: Configure, trained: Callable[..., checkfree.Run]
) -> None:
    """Else all the rest would say nothing of generators."""
    other = checkfree.train(configured(CASES["checkfree_plus"], **change))
    assert len(other.losses) == BASE["iterations"]
    assert not set(trained("checkfree_plus").losses) & set(other.losses)


# --- losses of stages ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_any_order_of_delivery_trains_the_same(
    name: str, trained: Callable[..., checkfree.Run]
) -> None:
    """The public call beside the same actors with any pending message next."""
    run = trained(name)
    shuffled = delivered_in_any_order(run.config, seed=7)
    assert story(json.loads(dumps(r)) for r in shuffled.log.records) == story(run.records)
    for seat, state in shuffled.states().items():
        module = run.stages[Address.parse(seat).stage]
        assert all(torch.equal(state.params[n], p) for n, p in module.named_parameters()), seat


def delivered_in_any_order(config: Config, seed: int) -> tiny.Run:
    """A run of the same actors that ``checkfree.train`` hosts."""
    model, batch = config.model, config.batch
    data = open_data(config.data, context=model.context, batch=batch, seed=config.seed)
    feeds = {Purpose.TRAIN: data.train, Purpose.VALIDATE: data.validation}
    blueprint = of_family(config, data.vocabulary)
    context = make_worker_context(config, blueprint, feeds)
    log, files = tiny.Log(), tiny.MemoryFiles()
    store = Store(files)
    made = assemble(config, context, store, log, tokens=blueprint.tokens)

    def spawn(seat: Address, life: int) -> StageWorker:
        return StageWorker(seat, life, context, uninitialized=True)

    runtime = InProcess(made.runtime.actors, spawn, random.Random(seed).randrange)
    runtime.actors[FAULTS] = Faults(runtime, DueFailures(config).struck)
    runtime.run()
    return tiny.Run(made.lead, runtime, log, store, files)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.exact])
def test_an_exact_recovery_leaves_no_trace(
    name: str, trained: Callable[..., checkfree.Run]
) -> None:
    """With rollback too: an iteration that is trained again has the loss that it had."""
    struck, spared = trained(name), trained(name, spared=True)
    ticks = [record["tick"] for record in struck.records if record["kind"] == "failure"]
    assert ticks == sorted({tick for tick, *_ in CASES[name].losses})
    assert losses_by_iteration(struck) == losses_by_iteration(spared)
    assert same_weights(struck, spared)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.exact])
def test_an_inexact_recovery_shows_from_its_tick_on(
    name: str, trained: Callable[..., checkfree.Run]
) -> None:
    """Else the loss of a stage would not be one."""
    struck, spared = trained(name).losses, trained(name, spared=True).losses
    first, *_ = CASES[name].losses[0]
    assert struck[:first] == spared[:first]
    assert all(a != b for a, b in zip(struck[first:], spared[first:], strict=True))


def test_under_muon_a_run_goes_on_and_is_trained_again(
    configured: Configure, trained: Callable[..., checkfree.Run]
) -> None:
    def stop(record: Any) -> None:
        if getattr(record, "iteration", 0) >= 4:
            raise KeyboardInterrupt

    whole, case = trained("muon, moments averaged"), CASES["muon, moments averaged"]
    config = configured(case, resume={"every": 3})
    with pytest.raises(KeyboardInterrupt):
        checkfree.train(config, listeners=[stop])
    again = checkfree.resume(config.out)
    assert again.losses == whole.losses and same_weights(again, whole)
    assert of_kind(again.records, "resume")[0]["iteration"] == 3
    assert checkfree.verify(config.out).difference == ""


# --- many orders, on the tiny pipeline -----------------------------------------------------------


def tiny_run(name: str, pick: Callable[[int], int] | None = None, **more: Any) -> tiny.Run:
    """The tiny pipeline, with the case's losses; ``pick`` says which message goes next."""
    change, losses, _ = CASES[name]
    replicas = change.get("replicas", 1)

    def strikes(tick: int) -> list[Address]:
        hit = [entry[1:] for entry in losses if entry[0] == tick]
        return [Address(s, r) for s, *own in hit for r in own or range(replicas)]

    terms = {"iterations": 6, "microbatches": 5, "validation_every": 4}
    strategy = make_strategy(RecoveryConfig(**change["recovery"]))
    run = tiny.make(
        strategy, replicas=replicas, terms=terms, strikes=strikes, pick=pick, dropout=0.2, **more
    )
    run.runtime.run()
    assert run.lead.done, run.lead.failure
    return run


@pytest.mark.parametrize("name", CASES)
def test_no_order_of_delivery_shows(name: str) -> None:
    """Oldest first is the default; newest first is the worst; and three at random."""
    expected = tiny_run(name)
    newest: Callable[[int], int] = lambda count: count - 1  # noqa: E731
    for pick in (newest, *(random.Random(seed).randrange for seed in range(3))):
        run = tiny_run(name, pick)
        assert run.log.records == expected.log.records
        assert tiny.same_states(run.states(), expected.states())


def tiny_stories() -> dict[str, list[str]]:
    """What every case writes down, as text with all digits."""
    return {name: [dumps(record) for record in tiny_run(name).log.records] for name in CASES}


def test_the_seed_of_hashes_does_not_show() -> None:
    """Sets of keeps and sources iterate in another order in every process; runs must not."""
    program = "import json; from tests.contract.test_determinism import tiny_stories as told; "
    child = subprocess.run(
        [sys.executable, "-c", program + "print(json.dumps(told()))"],
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout) == tiny_stories()

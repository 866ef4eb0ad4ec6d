"""Parts of a user's own in a swarm: a strategy that repairs after real kills, a schedule, and nodes
that run such code only if their own command line says so."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkfree.core.records import of_kind, read
from tests.chaos import SOAK
from tests.process.command import end_of, numbers, run
from tests.process.test_swarm_stop import Fleet, ended

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hivemind") is None, reason="hivemind is not installed"
)
MINE = '''
from dataclasses import dataclass

from checkfree import Kind, Op, Rebuilding, Recipe, Refusal, Source, Strategy, repair_each


@dataclass(frozen=True)
class Next(Strategy):
    """A lost stage becomes the one after it, ``by`` times as large."""

    by: float = 1.0

    def repair(self, lost, view, refused):
        def recipe(stage):
            seat = view.living(stage + 1)
            if seat is None:
                return Refusal(f"stage {stage} is lost, and there is none after it")
            return Recipe("next", (Source(seat, seat.stage, view.committed),), moments=False)

        return repair_each(lost, view, recipe)

    def rebuild(self, seat, fresh, states):
        (state,) = states.values()
        for weight in state.params.values():
            weight.mul_(self.by)
        return Rebuilding(state)


def one_at_a_time(routes):
    """A microbatch comes home before the next goes out."""
    lists = {}
    for microbatch, route in enumerate(routes):
        for hop, seat in enumerate(route):
            lists.setdefault(seat, []).append(Op(Kind.FORWARD, microbatch, hop))
        for hop, seat in reversed(list(enumerate(route))):
            lists[seat].append(Op(Kind.BACKWARD, microbatch, hop))
    return {seat: (*ops, Op(Kind.REDUCE)) for seat, ops in lists.items()}
'''
WORDS = (
    *("small.yaml", "stages=2", "microbatches=2", "validation.every=0", "iterations=12"),
    *("recovery=mine:Next(by=0.5)", "schedule=mine:one_at_a_time"),
)
PATIENT = "--patience=60"
"""A loaded machine stalls for a second at times: nobody is to be lost for that."""


@pytest.fixture
def fleet(folder: Path) -> Iterator[Fleet]:
    (folder / "mine.py").write_text(MINE)
    made = Fleet(folder)
    try:
        yield made
    finally:
        made.end()


@pytest.mark.skipif(not SOAK, reason="13 seconds: CHECKFREE_SOAK=1")
def test_a_rule_of_ones_own_repairs_what_was_killed(fleet: Fleet) -> None:
    losses = {"failures": [{"iteration": 3, "stage": 1}, {"iteration": 7, "stage": 1}]}
    (fleet.folder / "losses.json").write_text(json.dumps(losses))
    words = (*WORDS, "failures=losses.json", "--quiet")
    run(fleet.folder, "swarm", "up", *words, "out=run", PATIENT)
    run(fleet.folder, "train", *words, "out=one")
    assert numbers(fleet.run) == numbers(fleet.folder / "one")
    assert end_of(fleet.run)["status"] == "done"
    made = of_kind(read(fleet.run), "recovery")
    assert [recovery["rebuilds"]["1.0"]["rule"] for recovery in made] == ["next", "next"]
    refused = run(fleet.folder, "verify", "run", "--quiet", expect=2).stderr
    assert "if you trust it, --allow mine" in refused and refused.count("\n") == 1
    run(fleet.folder, "verify", "run", "--quiet", "--allow", "mine")


def test_a_node_runs_it_only_if_its_own_command_line_says_so(fleet: Fleet) -> None:
    lead = fleet.lead(*WORDS, "failures=none", "out=run")
    refused = run(fleet.folder, *fleet.line, expect=2).stderr
    assert "--allow mine" in refused and "Traceback" not in refused
    for name in ("attic", "barn", "cellar"):
        fleet.join(name, "--host", name, "--allow", "mine")
    ended(lead, 0)
    for node in fleet.nodes.values():
        ended(node, 0)
    assert end_of(fleet.run)["status"] == "done"
    run(fleet.folder, "verify", "run", "--quiet", "--allow", "mine")


FAMILIES = '''
from torch import nn
from checkfree.models import llama

class Normed:
    """Running statistics at the end of each body stage."""

    def stage(self, config, i, stages):
        made = llama.stage(config, i, stages)
        return nn.Sequential(made, Statistics(config.width)) if i else made

    def parameters_of(self, config):
        return llama.parameters_of(config)

class Statistics(nn.BatchNorm1d):
    def forward(self, hidden):
        return super().forward(hidden.transpose(1, 2)).transpose(1, 2)

class Broken(Normed):
    def stage(self, config, i, stages):
        return nn.Linear(1, 1) if i else super().stage(config, i, stages)

normed, broken = Normed(), Broken()
'''


@pytest.fixture
def families(folder: Path) -> Path:
    """A folder to run in, with families that can't be trained."""
    (folder / "families.py").write_text(FAMILIES)
    return folder


WAYS = ("train out=run", "compare --out=run", "swarm up out=run", "swarm lead out=run")


@pytest.mark.parametrize("way", WAYS)
def test_a_family_that_cannot_train_is_refused_at_once(families: Path, way: str) -> None:
    *command, out = way.split()
    refused = run(families, *command, "small.yaml", out, "model.family=families:normed", expect=2)
    assert "stage 1: forward of Sequential changes some of its buffers" in refused.stderr
    assert refused.stderr.count("\n") == 1 and not (families / "run").exists()


def test_what_a_family_raises_is_told_in_a_swarm(families: Path) -> None:
    words = ("small.yaml", "out=run", "model.family=families:broken")
    told = run(families, "swarm", "up", *words, expect=2).stderr
    assert "model.family=families:broken raises RuntimeError: mat1 and mat2 shapes" in told
    assert not (families / "run").exists()

"""Seeded runs with kills anywhere: each ends, and replays from its plans bit for bit."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from checkfree.core.records import PlanRecord
from tests.chaos import SOAK
from tests.chaos.chaos import SHAPES, Chaos, Plan, measured, replay
from tests.tiny import same_states

CHUNK, CHUNKS = 50, 20 if SOAK else 3


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_run_ends_and_equals_its_replay(chunk: int) -> None:
    torch.set_num_threads(1)
    where: Counter[str] = Counter()
    finished = rerouted = 0
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        chaos = Chaos(Plan.of(seed), wanders=True)
        run = chaos.play()
        assert run.lead.done or run.lead.failure, f"seed {seed} stalls while {run.lead.phase}"
        again = replay(chaos.plan, run)
        assert measured(again)[: len(measured(run))] == measured(run), f"seed {seed}"
        if run.lead.done:
            one, other = run.states(), again.states()
            both = one.keys() & other.keys()  # a seat may have come back after the last step
            assert {name.split(".")[0] for name in both} == {name.split(".")[0] for name in one}
            assert same_states({s: one[s] for s in both}, {s: other[s] for s in both}), seed
            finished += 1
        where += chaos.where
        rerouted += any(r.routes for r in run.log.records if isinstance(r, PlanRecord))
    assert rerouted >= 0.2 * CHUNK, rerouted
    assert where["committing"] + where["rebuilding"] >= 0.3 * where.total(), where
    assert finished >= 0.7 * CHUNK, finished


def test_shapes_cover_what_they_should() -> None:
    """3 replicas, swaps, exact keeps and rollback."""
    assert {shape["replicas"] for shape in SHAPES} == {1, 2, 3}
    assert {"checkfree_plus", "redundant", "checkpoint"} <= {s["recovery"] for s in SHAPES}

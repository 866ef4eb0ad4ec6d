"""Lost stages that are replayed, at seeded places: each comes back with the bits that it had."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from checkfree.core.ops import FAULTS
from checkfree.recovery.exact import REPLAY
from checkfree.runtime.replay import Replayed, ReplayedFaults, script
from tests.chaos import SOAK
from tests.chaos.chaos import measured
from tests.chaos.replays import Losing, Terms
from tests.chaos.takeovers import told

CHUNK, CHUNKS = 20, 50 if SOAK else 2


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_bit_comes_back(chunk: int) -> None:
    torch.set_num_threads(1)
    seen: Counter[str] = Counter()
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        losing = Losing(Terms.of(seed))
        losing.play()
        losing.check_end()
        seen += losing.seen
    lost = sum(count for what, count in seen.items() if what.startswith("lost:"))
    assert CHUNK - seen["done"] <= 0.3 * lost, seen
    assert seen["replays"] >= CHUNK, seen
    assert seen["replays from a wave"] >= (0.8 if SOAK else 0.6) * seen["replays"], seen
    assert seen["lost: travels"] and seen["lost: replays"] and seen["owner and holder"], seen
    assert seen["left"], seen
    assert seen["runs with 5 waves"] >= (0.9 * CHUNK if SOAK else 1), seen
    assert seen["foretold: lost"] and seen["foretold: saved"], seen


LADDERS = 200 if SOAK else 16


def test_a_ladder_replays_what_it_can() -> None:
    """And rebuilds the rest from what is left, with those that were replayed beside it: the plans
    give the same run, so each stage went on from the very state that they tell."""
    torch.set_num_threads(1)
    rules: Counter[str] = Counter()
    for seed in range(LADDERS):
        terms = Terms.of(seed)
        losing = Losing(replace(terms, stages=max(3, terms.stages)), ladder=True)
        run = losing.play()
        assert run.lead.done or run.lead.failure, f"{seed}: stalls while {run.lead.phase}"
        made = [m for r in run.of_kind("recovery") for m in r.rebuilds.values()]
        rules += Counter(m.recipe.rule for m in made)
        assert not any(rule == REPLAY for m in made for rule, _ in m.rejected), seed
        steps = script(told(run))
        again = losing.terms.run(
            Replayed(losing.strategy, steps), faults=lambda host, s=steps: ReplayedFaults(host, s)
        )
        again.runtime.run(again.runtime.actors[FAULTS].watch)
        recorded = measured(run)
        assert measured(again)[: len(recorded)] == recorded, seed
    assert rules[REPLAY] >= LADDERS, rules
    assert rules.keys() & {"shadow", "fitted average", "average"}, rules


@pytest.mark.parametrize("seed", range(100 if SOAK else 12))
def test_with_replicas_the_plans_give_the_same_run(seed: int) -> None:
    terms = Terms.of(seed, replicas=2 + seed % 2)
    losing = Losing(terms)
    run = losing.play()
    losing.check_end()
    steps = script(told(run))
    again = terms.run(
        Replayed(losing.strategy, steps), faults=lambda host: ReplayedFaults(host, steps)
    )
    again.runtime.run(again.runtime.actors[FAULTS].watch)
    recorded = measured(run)
    assert measured(again)[: len(recorded)] == recorded

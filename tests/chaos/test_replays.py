"""Lost stages that are replayed, at seeded places: each comes back with the bits that it had."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import pytest
import torch

from checkfree.core.ops import FAULTS, Address, View
from checkfree.lead.live import Exposure
from checkfree.recovery.replay.plan import begins
from checkfree.recovery.replay.terms import ReplayTerms
from checkfree.recovery.rungs import REPLAY
from checkfree.runtime.recorded import RecordedFaults, RecordedRepairs, script
from tests.chaos import SOAK
from tests.chaos.chaos import measured
from tests.chaos.everywhere import SEATS, Everywhere, Kill, finished
from tests.chaos.replays import Losing, Terms
from tests.chaos.takeovers import told

CHUNK, CHUNKS = (450, 4) if SOAK else (20, 2)
"""Runs. Of ten some six are not refused: in a soak a thousand of them go on to the end."""

LEAST = {
    "done": 250,
    "lost: travels": 50,
    "lost: replays": 50,
    "owner and holder": 25,
    "lost: lead": 12,
    "lost: lead replays": 13,
    "left": 50,
    "lost: waits": 25,
    "severed": 25,
    "foretold: lost": 25,
    "foretold: saved": 250,
}
"""In how many of a soak's ``CHUNK`` runs each is to be seen; of fewer runs, in one at least."""


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_bit_comes_back(chunk: int) -> None:
    torch.set_num_threads(1)
    seen: Counter[str] = Counter()
    runs: Counter[str] = Counter()
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        losing = Losing(Terms.of(seed))
        losing.play()
        losing.check_end()
        seen.update(losing.seen)
        runs.update(what for what, count in losing.seen.items() if count)
        if SOAK and losing.seen["done"]:
            assert losing.seen["waves counted"] >= 5, losing.terms
    print(f"of {CHUNK} runs, in how many: {dict(runs)}; in all: {dict(seen)}")
    lost = sum(count for what, count in seen.items() if what.startswith("lost:"))
    assert CHUNK - seen["done"] <= 0.3 * lost, seen
    assert seen["replays"] >= CHUNK, seen
    assert seen["replays from a wave"] >= (0.8 if SOAK else 0.6) * seen["replays"], seen
    for what, least in LEAST.items():
        assert runs[what] >= (least if SOAK else 1), (what, runs)
    assert seen["waves counted"] >= 2 * CHUNK, seen


LOOKS = 200 if SOAK else 16


def test_who_is_unprotected_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lead does not look before every iteration: whatever befalls, that makes no difference."""
    torch.set_num_threads(1)
    seen: Counter[bool] = Counter()
    look = Exposure.look

    def checked(self: Exposure, view: View, machines: Mapping[Address, str]) -> None:
        before = self.since or {}
        look(self, view, machines)
        safe, since = begins(view), self.since
        exposed = {seat.stage for seat in view.alive} - safe.keys()
        assert since is not None and since.keys() == exposed, view.committed
        assert self.begins == safe, view.committed
        assert all(at == before.get(stage, view.committed) for stage, at in since.items())
        seen[bool(exposed)] += 1

    monkeypatch.setattr(Exposure, "look", checked)
    for seed in range(LOOKS):
        Losing(Terms.of(seed, replicas=1 + seed % 2), ladder=seed % 4 == 3).play()
    assert seen[True] > LOOKS and seen[False] > LOOKS, seen


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_machines_that_are_lost_whole(chunk: int) -> None:
    """With the copies that they hold: each time as ``survives`` had said, and mostly to no harm."""
    torch.set_num_threads(1)
    seen: Counter[str] = Counter()
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        terms = Terms.of(seed)
        stages = max(3, terms.stages)
        losing = Losing(replace(terms, stages=stages, machines=1 + seed % 4))
        losing.play()
        losing.check_end()
        seen += losing.seen
    assert seen["lost: machine"] >= CHUNK / 2 and seen["several at once"] >= CHUNK / 4, seen
    assert seen["foretold: lost"] and seen["foretold: saved"], seen
    assert seen["replays from a wave"] >= 0.5 * seen["replays"], seen


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
            RecordedRepairs(losing.strategy, steps),
            faults=lambda host, s=steps: RecordedFaults(host, s),
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
        RecordedRepairs(losing.strategy, steps), faults=lambda host: RecordedFaults(host, steps)
    )
    again.runtime.run(again.runtime.actors[FAULTS].watch)
    recorded = measured(run)
    assert measured(again)[: len(recorded)] == recorded


KEPT = (
    ReplayTerms(lag=1),
    ReplayTerms(lag=2, every=2),
    ReplayTerms(lag=1, log_memory=3 * 2 * 2 * 3 * 4 * 4),  # of three iterations
    ReplayTerms(lag=2, every=1, copies=2),
)


@pytest.mark.parametrize("kept", KEPT, ids=["often", "by count", "by memory", "two copies"])
def test_killed_anywhere(kept: ReplayTerms) -> None:
    """Each seat at each delivery, two at every tenth, and another at each while one is replayed:
    the same bits, or a refusal where nothing was promised."""
    torch.set_num_threads(1)
    plain = Everywhere(kept)
    expected, count = finished(plain.play()), plain.run.runtime.delivered
    pairs = list(combinations(SEATS, 2))
    kills: list[tuple[Kill, ...]] = [((at, (seat,)),) for at in range(1, count) for seat in SEATS]
    kills += [((at, pair),) for at in range(1, count, 10) for pair in pairs]
    kills += [
        ((at, (first,)), (then, (second,)))
        for at in (count // 2, 3 * count // 4)
        for first in SEATS
        for then in _replaying(kept, at, first)
        for second in SEATS
    ]
    ends: Counter[str] = Counter()
    for case in kills if SOAK else random.Random(repr(kept)).sample(kills, 24):
        run = Everywhere(kept, case)
        run.play()
        end = run.outcome(expected)
        assert end in ("same", "refused"), (case, end)
        ends[end] += 1
    assert ends["same"] >= (0.85 if SOAK else 0.7) * ends.total(), ends


def _replaying(kept: ReplayTerms, at: int, seat: Address) -> Sequence[int]:
    """Deliveries while that seat is replayed, which is lost after so many."""
    run = Everywhere(kept, ((at, (seat,)),))
    run.play()
    return run.replaying

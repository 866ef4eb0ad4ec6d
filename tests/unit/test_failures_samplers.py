"""What every sampler promises, and what each is for."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkfree.core.config import FailuresConfig
from checkfree.core.errors import BadInput
from checkfree.core.ops import Address
from checkfree.failures import (
    SAMPLERS,
    Trace,
    arrivals,
    make_trace,
    pack,
    poisson_rate_per_hour,
    probability_per_tick,
    sample,
    target_stages,
    write_trace,
)

N = 6


def draw(config: FailuresConfig, ticks: int = 400, seed: int = 7, replicas: int = 1) -> Trace:
    return sample(config, seed=seed, stages=N, replicas=replicas, ticks=ticks)


configs = st.builds(
    FailuresConfig,
    scenario=st.sampled_from(sorted(SAMPLERS)),
    probability=st.floats(0, 0.3),
    stages=st.sampled_from(["body", "all", "middle", [2, 3, 5]]),
    burst=st.integers(1, 5),
    seats_per_node=st.integers(1, 4),
    first=st.integers(0, 9),
)


@settings(max_examples=150, deadline=None)
@given(configs, st.integers(0, 120), st.integers(0, 120), st.integers(0, 2**40), st.integers(1, 3))
def test_a_longer_trace_begins_with_the_shorter(
    config: FailuresConfig, short: int, more: int, seed: int, replicas: int
) -> None:
    long = draw(config, short + more, seed, replicas)
    assert draw(config, short, seed, replicas) == tuple(f for f in long if f.tick < short)


@settings(max_examples=100, deadline=None)
@given(configs, st.integers(1, 3))
def test_traces_are_sorted_without_duplicates_and_within_bounds(
    config: FailuresConfig, replicas: int
) -> None:
    trace = draw(config, 60, replicas=replicas)
    assert trace == make_trace(trace) == tuple(sorted(set(trace)))
    assert {f.stage for f in trace} <= set(target_stages(config.stages, N))
    assert all(config.first <= f.tick < 60 for f in trace)


@settings(max_examples=60, deadline=None)
@given(configs)
def test_first_only_takes_away(config: FailuresConfig) -> None:
    whole = draw(replace(config, first=0), 60)
    assert draw(config, 60) == tuple(f for f in whole if f.tick >= config.first)


@pytest.mark.parametrize("scenario", ["random", "poisson"])
@given(st.sets(st.integers(0, N), min_size=1))
def test_a_stage_does_not_care_which_others_may_fail(scenario: str, stages: set[int]) -> None:
    config = FailuresConfig(scenario=scenario, probability=0.05, stages="all")
    among_all = tuple(f for f in draw(config) if f.stage in stages)
    assert draw(replace(config, stages=sorted(stages))) == among_all


@pytest.mark.parametrize("scenario", ["random", "adjacent", "nodes"])
def test_lower_probabilities_fail_at_a_subset(scenario: str) -> None:
    config = FailuresConfig(scenario=scenario, probability=0.02)
    few, many = draw(config), draw(replace(config, probability=0.05))
    assert set(few) < set(many)


def test_seeds_decide() -> None:
    config = FailuresConfig(probability=0.05)
    assert draw(config) == draw(config)
    assert draw(config) != draw(config, seed=8)
    assert draw(replace(config, seed=8)) == draw(config, seed=8)


def test_these_are_the_draws_of_seed_seven() -> None:
    """A literal: traces must not move between versions, or published runs could not be repeated."""
    trace = draw(FailuresConfig(probability=0.02), 40)
    assert [(f.tick, f.stage) for f in trace] == [(10, 4), (27, 1), (31, 2)]


@pytest.mark.parametrize("scenario", ["random", "poisson"])
@pytest.mark.parametrize("probability", [0.001, 0.02, 0.3])
def test_stages_fail_as_often_as_they_should(scenario: str, probability: float) -> None:
    ticks = 20_000
    trace = draw(FailuresConfig(scenario=scenario, probability=probability, first=0), ticks)
    deviation = (ticks * probability * (1 - probability)) ** 0.5
    for stage in range(1, N + 1):
        count = sum(f.stage == stage for f in trace)
        assert abs(count - ticks * probability) < 4.5 * deviation


def test_hourly_rate_is_met_within_the_hour() -> None:
    """Over many hours of 36 ticks, a stage fails in a tenth of them."""
    config = FailuresConfig(rate_per_hour=0.1, seconds_per_iteration=100.0, first=0)
    hours = 4000
    struck = {(f.stage, f.tick // 36) for f in draw(config, 36 * hours)}
    mean = len(struck) / N
    assert abs(mean - 0.1 * hours) < 4.5 * (hours * 0.09 / N) ** 0.5


def test_stages_are_independent_of_each_other() -> None:
    trace = draw(FailuresConfig(probability=0.1, first=0), 20_000)
    second, third = ({f.tick for f in trace if f.stage == stage} for stage in (2, 3))
    assert abs(len(second & third) - 200) < 4.5 * 200**0.5


def test_certain_and_impossible() -> None:
    every = draw(FailuresConfig(probability=1.0, first=2), 5)
    assert [(f.tick, f.stage) for f in every] == [
        (t, s) for t in (2, 3, 4) for s in range(1, N + 1)
    ]
    for scenario in SAMPLERS:
        assert draw(FailuresConfig(scenario=scenario, probability=0.0)) == ()
        assert draw(FailuresConfig(scenario=scenario, probability=5e-324)) == ()


def test_poisson_is_its_arrivals_cut_into_ticks() -> None:
    config = FailuresConfig(scenario="poisson", rate_per_hour=0.5, seconds_per_iteration=60.0)
    rate = poisson_rate_per_hour(0.5)
    seconds = list(takewhile(lambda t: t < 60.0 * 3000, arrivals(7, 4, rate)))
    ticks = sorted({int(t // 60) for t in seconds} - {0})
    assert [f.tick for f in draw(config, 3000) if f.stage == 4] == ticks
    assert len(ticks) > 10


def test_a_higher_rate_plays_the_same_arrivals_faster() -> None:
    slow, fast = arrivals(7, 2, 0.25), arrivals(7, 2, 0.5)
    for _ in range(20):
        assert next(slow) == pytest.approx(2 * next(fast))
    assert list(arrivals(7, 2, 0.0)) == []


def test_bursts_go_on_for_their_ticks() -> None:
    config = FailuresConfig(scenario="bursts", probability=0.002, burst=4)
    starts = draw(replace(config, burst=1), 2000)
    trace = draw(config, 2000)
    assert starts == draw(replace(config, scenario="random"), 2000)
    assert set(starts) < set(trace)
    struck = {f.tick for f in trace}
    assert {t + k for f in starts for k in range(4) if (t := f.tick) + k < 2000} == struck
    assert len({f.stage for f in set(trace) - set(starts)}) > 2


def test_adjacent_pairs_fall_together() -> None:
    config = FailuresConfig(scenario="adjacent", probability=0.01, stages="body")
    events = {(f.tick, f.stage) for f in draw(replace(config, scenario="random"), 500)}
    pairs = {(t, s + k) for t, s in events if s < N for k in (0, 1)}
    assert {(f.tick, f.stage) for f in draw(config, 500)} == pairs


def test_adjacent_never_loses_half_a_pair() -> None:
    config = FailuresConfig(scenario="adjacent", probability=0.1, stages=[1, 3, 4, 6])
    trace = draw(config)
    assert {f.stage for f in trace} == {3, 4}
    assert len({f.tick for f in trace}) * 2 == len(trace)


def test_edges_only() -> None:
    trace = draw(FailuresConfig(probability=0.05, stages="edges"))
    assert {f.stage for f in trace} == {1, N}


def test_nodes_are_packed_in_address_order() -> None:
    assert pack((0, 1, 2), 2, 4) == (
        (Address(0, 0), Address(0, 1), Address(1, 0), Address(1, 1)),
        (Address(2, 0), Address(2, 1)),
    )
    assert pack((1, 2, 3), 1, 2) == ((Address(1), Address(2)), (Address(3),))


def test_a_node_takes_all_its_seats_along() -> None:
    config = FailuresConfig(scenario="nodes", probability=0.03, seats_per_node=3, stages="all")
    trace = draw(config, 300, replicas=2)
    lost = {t: {Address(f.stage, f.replica or 0) for f in trace if f.tick == t} for t in range(300)}
    nodes = [set(node) for node in pack(tuple(range(N + 1)), 2, 3)]
    assert all(f.replica is not None for f in trace)
    for seats in lost.values():
        assert seats == set().union(*(node for node in nodes if node & seats))
    hit = [node for node in nodes if any(node <= seats for seats in lost.values())]
    assert hit == nodes


def test_random_without_a_rate_has_no_failures() -> None:
    assert draw(FailuresConfig()) == ()
    assert draw(FailuresConfig(scenario="none", probability=0.5)) == ()


def test_preset_is_random_at_the_published_constant() -> None:
    preset = draw(FailuresConfig(scenario="paper/500m/16%"), 5000)
    assert preset == draw(FailuresConfig(probability=0.004), 5000)
    assert preset


def test_a_trace_file_comes_whole(tmp_path: Path) -> None:
    trace = draw(FailuresConfig(probability=0.5, stages="all", first=0), 50)
    assert trace[0].tick == 0
    write_trace(trace, tmp_path / "trace.json")
    config = FailuresConfig(scenario=str(tmp_path / "trace.json"), stages="edges", first=9)
    assert draw(config, 10) == trace
    with pytest.raises(BadInput, match="this pipeline has stages 0 … 2"):
        sample(config, seed=0, stages=2, replicas=1, ticks=10)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scenario": "poisson"}, "poisson has no rate: give failures.probability"),
        ({"scenario": "bursts"}, "bursts has no rate"),
        ({"scenario": "nodes"}, "nodes has no rate"),
        ({"scenario": "poisson", "probability": 1.0}, "needs a probability below 1"),
        ({"scenario": "adjacent", "stages": "edges", "probability": 0.1}, "two neighbouring"),
        ({"scenario": "rnadom"}, "no such file was found: use one of none, random, poisson,"),
        ({"scenario": "paper/500m/11"}, r"no such file was found.*paper/500m/10,"),
        ({"scenario": "none", "probability": 0.1, "rate_per_hour": 0.1}, "both given"),
        ({"probability": 2.0}, "probability is 2.0"),
        ({"burst": 0}, "burst is 0, expected a whole number from 1 up"),
        ({"seats_per_node": 0}, "seats_per_node is 0"),
        ({"first": -1}, "first is -1, expected a whole number from 0 up"),
        ({"burst": 1.5}, "burst is 1.5"),
        ({"stages": "midle"}, "'midle', expected middle, body, all, edges or a list"),
        ({"stages": 3}, "is 3, expected middle"),
        ({"stages": [2, 7]}, "names 7, this pipeline has stages 0 … 6"),
        ({"stages": [-1]}, "names -1, this pipeline"),
        ({"stages": [True]}, "names True, this pipeline"),
        ({"stages": ["2"]}, "names '2', this pipeline"),
        ({"stages": []}, r"\[\] names no stage"),
    ],
)
def test_bad_configurations_are_refused_in_one_line(
    fields: dict[str, object], message: str
) -> None:
    with pytest.raises(BadInput, match=message) as error:
        draw(FailuresConfig(**fields))  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("stages", "n", "want"),
    [
        ("middle", 6, (2, 3, 4, 5)),
        ("body", 3, (1, 2, 3)),
        ("all", 2, (0, 1, 2)),
        ("edges", 6, (1, 6)),
        ("edges", 1, (1,)),
        ([4, 0, 4], 4, (0, 4)),
        ((2,), 4, (2,)),
    ],
)
def test_target_stages(stages: object, n: int, want: tuple[int, ...]) -> None:
    assert target_stages(stages, n) == want


def test_middle_of_two_is_refused() -> None:
    with pytest.raises(BadInput, match="'middle' names no stage of 0 … 2"):
        target_stages("middle", 2)


def test_rate_and_probability_agree() -> None:
    rate = FailuresConfig(rate_per_hour=0.16)
    same = FailuresConfig(probability=probability_per_tick(0.16, 91.3))
    assert draw(rate, 3000) == draw(same, 3000) != ()


def test_the_room_needs_no_torch() -> None:
    code = "import checkfree.failures, sys; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0

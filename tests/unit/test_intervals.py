"""How often to put a state aside: the closed forms, worked out by hand, and against simulated
runs."""

from __future__ import annotations

import math
from typing import Any

import pytest

from checkfree.config.load import build
from checkfree.failures import poisson_rate_per_hour
from checkfree.session.rehearsal import rehearse
from checkfree.simulator.intervals import (
    MeasuredTimes,
    between_waves,
    daly,
    seconds_with_checkpoints,
    seconds_with_restarts,
    seconds_with_waves,
    young,
)
from checkfree.study.fleet_plan import FleetSearch

HOURLY = 1 / 3600


def test_young_is_the_root_of_twice_the_cost_by_the_rate() -> None:
    assert young(8.0, HOURLY) == pytest.approx(240)  # √(2 · 8 · 3600)
    assert young(0.0, HOURLY) == 0.0


def test_daly_is_young_where_losses_are_rare_and_their_mean_time_where_they_never_rest() -> None:
    part = math.sqrt(8 / 7200)
    assert daly(8.0, HOURLY) == pytest.approx(240 * (1 + part / 3 + part**2 / 9) - 8)
    assert daly(8.0, HOURLY / 1e6) == pytest.approx(young(8.0, HOURLY / 1e6), rel=1e-3)
    assert daly(7200.0, HOURLY) == 3600


def test_without_losses_an_interval_costs_what_is_put_aside() -> None:
    found = MeasuredTimes(iteration=10.0, aside=5.0, fixed=30.0, again=2.0, lag=3)
    assert seconds_with_waves(found, 5, 0.0) == 11.0
    assert seconds_with_checkpoints(found, 5, 1e-12) == pytest.approx(11.0)


def test_a_loss_costs_a_wave_its_lag_and_half_an_interval() -> None:
    """Half an iteration, 30 s, and 3 + 2 iterations of 2 s: 45 s a thousandth of all seconds."""
    found = MeasuredTimes(iteration=10.0, aside=0.0, fixed=30.0, again=2.0, lag=3)
    assert seconds_with_waves(found, 5, 1e-3) == pytest.approx(10 / (1 - 0.045))
    assert seconds_with_waves(found, 5, 1.0) == math.inf


def test_a_loss_costs_a_checkpoint_half_an_interval_of_all() -> None:
    """To the first order: an interval of 100 s, so 50 s, and 30 s that it is restored in."""
    found = MeasuredTimes(iteration=10.0, aside=0.0, fixed=30.0, again=10.0)
    assert seconds_with_checkpoints(found, 10, 1e-5) == pytest.approx(10 * (1 + 80e-5), rel=1e-5)
    assert seconds_with_checkpoints(found, 10, 1e3) == math.inf


@pytest.mark.parametrize("aside", [0.5, 5.0, 60.0])
def test_the_best_interval_is_the_least_of_what_is_expected(aside: float) -> None:
    found = MeasuredTimes(iteration=10.0, aside=aside, fixed=30.0, again=4.0, lag=3)
    span = range(1, 2000)
    best = min(span, key=lambda n: seconds_with_checkpoints(found, n, 1e-5))
    assert daly(aside, 1e-5) / 10 == pytest.approx(best, abs=1)
    best = min(span[3:], key=lambda n: seconds_with_waves(found, n, 1e-5))
    assert between_waves(found, 1e-5) == pytest.approx(best, rel=0.03, abs=1)


def test_waves_that_nobody_waits_for_come_as_often_as_they_count() -> None:
    assert between_waves(MeasuredTimes(10.0, 0.0, 30.0, 4.0, lag=3), 1e-5) == 4.0
    assert between_waves(MeasuredTimes(10.0, 1.0, 30.0, 0.0, lag=3), 1e-5) == math.inf


def test_a_run_that_ends_is_begun_anew() -> None:
    """With one end in as many iterations as it has, it takes e − 1 times as long."""
    assert seconds_with_restarts(2.0, 100, 0.0) == 200.0
    assert seconds_with_restarts(2.0, 100, 0.01) == pytest.approx(200 * (math.e - 1))
    assert seconds_with_restarts(2.0, 100, 100.0) == math.inf


TREE: dict[str, Any] = {
    "iterations": 300,
    "stages": 4,
    "fleet": {"name": "home", "store": 5e3, "flops": 1e5, "detection": 30.0, "sizes": "own"},
    "recovery": {"wave_lag": 2},
    "failures": {"stages": "all", "first": 0},
    "validation": {"every": 0},
    "model": {"width": 16, "heads": 2, "hidden": 32, "blocks": 4, "context": 16},
}
RATE = 20.0


@pytest.mark.parametrize(
    ("name", "interval"), [("checkpoint", 2), ("checkpoint", 20), ("replay", 4), ("replay", 8)]
)
def test_what_is_expected_is_what_simulated_runs_take(name: str, interval: int) -> None:
    """Within their scatter."""
    search = FleetSearch(TREE, RATE, None, 1, (), bool)
    assert search.losses == pytest.approx(5 * poisson_rate_per_hour(RATE / 100) / 3600)
    if name == "checkpoint":
        recovery: dict[str, Any] = {"name": name, "interval": interval}
        measured = search.measured_checkpoints()
        expected = seconds_with_checkpoints(measured, interval, search.losses)
    else:
        recovery = {"name": name, "wave_every": interval, "copies": 2, **TREE["recovery"]}
        measured = search.measured_waves()
        expected = seconds_with_waves(measured, interval, search.losses)
    clock = {"scenario": "clock", "rate_per_hour": RATE / 100, **TREE["failures"]}
    tree = {**TREE, "failures": clock, "recovery": recovery}
    runs = [rehearse(build({**tree, "seed": seed})) for seed in range(6)]
    losses = sum(len(run.trace) for run in runs)
    kept = sum(len(set(run.priced.iterations)) for run in runs)
    assert losses > 80
    found = sum(run.priced.total for run in runs) / kept
    overhead = expected / measured.iteration - 1
    assert found / measured.iteration - 1 == pytest.approx(overhead, rel=2.5 / math.sqrt(losses))

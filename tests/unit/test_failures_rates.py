"""The rate's formula, the published constants, and every rate that is refused."""

from __future__ import annotations

import math
from decimal import Decimal, getcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkfree.core.config import FailuresConfig
from checkfree.core.errors import BadInput
from checkfree.failures import (
    PER_ITERATION,
    implied_seconds,
    poisson_rate_per_hour,
    presets,
    probability_per_tick,
    rate_of,
    tick_probability,
)
from checkfree.failures.paper import SECONDS_PER_ITERATION

getcontext().prec = 60


def exact(rate: float, seconds: float) -> Decimal:
    """The formula in 60 digits, on exactly the numbers that the floats hold."""
    return 1 - (1 - Decimal(rate)) ** (Decimal(seconds) / 3600)


@given(st.floats(1e-18, 0.999), st.floats(1e-3, 1e5))
def test_formula_agrees_with_sixty_digits(rate: float, seconds: float) -> None:
    want = exact(rate, seconds)
    assert abs(Decimal(probability_per_tick(rate, seconds)) - want) <= want * Decimal("1e-14")


def test_whole_fractions_of_an_hour_multiply_up_to_the_hour() -> None:
    for parts in (1, 2, 3, 40):
        survive = Fraction(1 - probability_per_tick(0.1, 3600 / parts)) ** parts
        assert float(1 - survive) == pytest.approx(0.1, rel=1e-12)


@pytest.mark.parametrize(("rate", "want"), [(0.05, 0.0013), (0.10, 0.0027), (0.16, 0.0044)])
def test_published_seconds_give_the_rounded_probabilities(rate: float, want: float) -> None:
    assert round(probability_per_tick(rate, SECONDS_PER_ITERATION), 4) == want


def test_zero_stays_zero() -> None:
    assert probability_per_tick(0.0, 91.3) == 0
    assert str(poisson_rate_per_hour(0.0)) == "0.0"


def test_poisson_rate_is_that_of_at_least_one_arrival() -> None:
    for chance in (1e-12, 0.1, 0.9):
        assert -math.expm1(-poisson_rate_per_hour(chance)) == pytest.approx(chance, rel=1e-14)


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("124m/10%", 20.5),
        ("124m/16%", 20.7),
        ("500m/5%", 63.2),
        ("500m/10%", 68.4),
        ("500m/16%", 82.8),
        ("1.5b/10%", 136.9),
        ("1.5b/16%", 165.9),
    ],
)
def test_published_constants_imply_these_seconds(name: str, seconds: float) -> None:
    implied = implied_seconds(PER_ITERATION[name], rate_of(name))
    assert implied == pytest.approx(seconds, abs=0.06)
    assert probability_per_tick(rate_of(name), implied) == pytest.approx(PER_ITERATION[name])


def test_published_constants_do_not_follow_from_the_published_seconds() -> None:
    for name in ("500m/5%", "500m/10%", "500m/16%"):
        formula = probability_per_tick(rate_of(name), SECONDS_PER_ITERATION)
        assert 1.1 < formula / PER_ITERATION[name] < 1.5


@pytest.mark.parametrize("scenario", ["paper/500m/10", "paper/500m/10%", "paper/500M/10%"])
def test_presets_carry_their_constant(scenario: str) -> None:
    assert tick_probability(FailuresConfig(scenario=scenario)) == 0.002


def test_every_preset_has_a_probability() -> None:
    found = [tick_probability(FailuresConfig(scenario=name)) for name in presets()]
    assert found == list(PER_ITERATION.values())


def test_rate_becomes_probability_at_the_configured_seconds() -> None:
    config = FailuresConfig(rate_per_hour=0.1, seconds_per_iteration=60)
    assert tick_probability(config) == probability_per_tick(0.1, 60)
    assert tick_probability(FailuresConfig(probability=0.25)) == 0.25
    assert tick_probability(FailuresConfig()) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"probability": 0.1, "rate_per_hour": 0.1}, "both given: keep one"),
        ({"probability": -0.1}, r"probability is -0.1, expected a number in \[0, 1\]"),
        ({"probability": 1.1}, r"probability is 1.1, expected"),
        ({"probability": math.nan}, "probability is nan, expected"),
        ({"probability": True}, "probability is True, expected"),
        ({"probability": "10%"}, "10 % is written 0.1"),
        ({"rate_per_hour": -0.1}, "rate_per_hour is -0.1, expected"),
        ({"rate_per_hour": 1}, r"rate_per_hour is 1, expected a number in \[0, 1\)"),
        ({"rate_per_hour": 10}, "rate_per_hour is 10, expected"),
        ({"rate_per_hour": 0.1, "seconds_per_iteration": 0}, "seconds_per_iteration is 0"),
        ({"rate_per_hour": 0.1, "seconds_per_iteration": math.inf}, "seconds_per_iteration is inf"),
        ({"scenario": "paper/500m/10", "probability": 0.1}, "carries its own probability"),
        ({"scenario": "paper/500m/10", "rate_per_hour": 0.1}, "carries its own probability"),
    ],
)
def test_bad_rates_are_refused_in_one_line(fields: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message) as error:
        tick_probability(FailuresConfig(**fields))  # type: ignore[arg-type]
    assert "\n" not in str(error.value)

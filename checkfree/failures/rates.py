"""From "the chance that a stage is lost within an hour" to a chance per tick, and back."""

from __future__ import annotations

import math

from checkfree.core.config import FailuresConfig
from checkfree.core.errors import BadInput
from checkfree.failures.paper import probability_of

SECONDS_PER_HOUR = 3600.0


def probability_per_tick(rate_per_hour: float, seconds: float) -> float:
    """p = 1 - (1 - P)^(s / 3600): loss within one tick of ``seconds``, given loss within an hour.

    Accurate for tiny P too. Paper, "failure model"; semantics 8. ``rate_per_hour`` in [0, 1).
    """
    return -math.expm1(seconds / SECONDS_PER_HOUR * math.log1p(-rate_per_hour))


def poisson_rate_per_hour(probability: float) -> float:
    """λ = -ln(1 - P): arrivals per hour such that at least one comes within an hour with
    probability P, in [0, 1)."""
    return abs(math.log1p(-probability))


def implied_seconds(per_tick: float, rate_per_hour: float) -> float:
    """The seconds of one tick for which the hourly rate gives the probability ``per_tick``."""
    return SECONDS_PER_HOUR * math.log1p(-per_tick) / math.log1p(-rate_per_hour)


def tick_probability(config: FailuresConfig) -> float | None:
    """Of losing a stage, per stage and tick; None: the configuration names no rate at all.

    Raises BadInput for a rate that is given twice or is no probability.
    """
    preset = probability_of(config.scenario)
    if preset is not None:
        if config.probability is not None or config.rate_per_hour is not None:
            raise BadInput(
                f"failures.scenario {config.scenario} carries its own probability: leave out "
                f"failures.probability and failures.rate_per_hour, or use failures.scenario random"
            )
        return preset
    if config.probability is not None and config.rate_per_hour is not None:
        raise BadInput(
            f"failures.probability ({config.probability}) and failures.rate_per_hour "
            f"({config.rate_per_hour}) are both given: keep one"
        )
    seconds = config.seconds_per_iteration
    if not (seconds > 0 and math.isfinite(seconds)):
        raise BadInput(
            f"failures.seconds_per_iteration is {seconds}, expected seconds above 0: "
            f"the paper's is 91.3"
        )
    if config.rate_per_hour is not None:
        rate = _checked("rate_per_hour", config.rate_per_hour, closed=False)
        return probability_per_tick(rate, seconds)
    if config.probability is not None:
        return _checked("probability", config.probability, closed=True)
    return None


def _checked(name: str, value: object, *, closed: bool) -> float:
    expected = "a number in [0, 1]" if closed else "a number in [0, 1), the chance within an hour"
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1 or (value == 1 and not closed):  # type: ignore[operator]
        raise BadInput(f"failures.{name} is {value!r}, expected {expected}: 10 % is written 0.1")
    return float(value)  # type: ignore[arg-type]

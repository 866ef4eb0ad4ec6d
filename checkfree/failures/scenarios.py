"""From ``FailuresConfig`` to a trace, whole, before the run (semantics 4)."""

from __future__ import annotations

import os
from pathlib import Path

from checkfree.core.config import FailuresConfig
from checkfree.core.errors import BadInput
from checkfree.failures.files import read_trace
from checkfree.failures.paper import presets, probability_of
from checkfree.failures.rates import tick_probability
from checkfree.failures.samplers import SAMPLERS, Setting
from checkfree.failures.targets import target_stages
from checkfree.failures.trace import Trace, make_trace
from checkfree.plugins import chosen, written_at

CLOCK = "clock"
"""The scenario whose failures fall on a fleet's simulated clock (semantics 9)."""


def sample(config: FailuresConfig, *, seed: int, stages: int, replicas: int, ticks: int) -> Trace:
    """The failures of ticks 0 … ``ticks`` - 1 in a pipeline of body stages S1 … S``stages``.

    ``config.seed`` goes before ``seed``. The first k ticks of a longer trace are the trace of k
    ticks, so ask for more ticks than iterations where rollbacks may make more. A trace file is an
    explicit list: it comes whole, whatever ``failures.first``, ``failures.stages`` and ``ticks``
    say.

    Raises BadInput for a rate that is missing, given twice or no probability, for an unknown
    scenario, and for stages or replicas that the pipeline lacks.
    """
    probability = tick_probability(config)
    _check_counts(config)
    if config.scenario == "none":
        return ()
    name = "random" if probability_of(config.scenario) is not None else config.scenario
    if is_trace_file(name):
        path = Path(os.path.expanduser(config.scenario))
        if not path.is_file():
            names = ", ".join(("none", *SAMPLERS, *presets()))
            raise BadInput(
                f"failures.scenario {config.scenario!r} is no scenario, and no such file was "
                f"found: use one of {names}, or the path of a trace file"
            )
        return read_trace(path, stages, replicas)
    sampler = chosen("failures.scenario", name, SAMPLERS, config.code)
    targets = target_stages(config.stages, stages)
    if probability is None and name == "random":
        return ()
    if probability is None:
        raise BadInput(
            f"failures.scenario {name} has no rate: give failures.probability (per stage and "
            f"tick) or failures.rate_per_hour"
        )
    setting = Setting(
        seed=seed if config.seed is None else config.seed,
        probability=probability,
        targets=targets,
        replicas=replicas,
        ticks=ticks,
        seconds_per_iteration=config.seconds_per_iteration,
        burst=config.burst,
        seats_per_node=config.seats_per_node,
    )
    return make_trace(f for f in sampler(setting) if f.tick >= config.first)


def is_ours(scenario: str) -> bool:
    """A scenario that is neither a file nor from outside of checkfree."""
    return scenario in ("none", CLOCK, *SAMPLERS, *presets())


def is_trace_file(scenario: str) -> bool:
    """The failures come from a file."""
    return not is_ours(scenario) and written_at("failures.scenario", scenario) is None


def _check_counts(config: FailuresConfig) -> None:
    for name, least in (("burst", 1), ("seats_per_node", 1), ("first", 0)):
        value = getattr(config, name)
        if type(value) is not int or value < least:
            raise BadInput(
                f"failures.{name} is {value!r}, expected a whole number from {least} up: "
                f"the default is {getattr(FailuresConfig, name)}"
            )

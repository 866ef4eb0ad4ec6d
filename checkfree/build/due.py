"""Which failures a run is due: a trace drawn whole beforehand, or rehearsed on a fleet's clock."""

from __future__ import annotations

from collections.abc import Callable, Collection

from checkfree.build.rehearsal import CLOCK, rehearse
from checkfree.config import Config
from checkfree.failures import STOP, Trace, sample, seats_hit, strikes
from checkfree.ops import Address

SAMPLED_TICKS = 4
"""Ticks of a trace that are drawn ahead, per iteration: rollbacks make more than one."""


def due_trace(config: Config, ticks: int | None = None) -> Trace:
    """The failures of a configuration, of so many ticks at least. Raises BadInput.

    On a clock (semantics 9) they are those of the whole run, which is rehearsed for it.
    """
    if config.failures.scenario == CLOCK:
        return rehearse(config).trace
    ticks = SAMPLED_TICKS * config.iterations if ticks is None else ticks
    size = {"stages": config.stages, "replicas": config.replicas}
    return sample(config.failures, seed=config.seed, ticks=ticks, **size)


def struck_seats(config: Config) -> Callable[[int], Collection[Address]]:
    """tick -> the seats that the configured failures hit. The trace is sampled ahead and sampled
    again, longer, when a run outlasts it: that changes nothing of what it had (semantics 4)."""
    ticks = SAMPLED_TICKS * config.iterations
    trace = due_trace(config, ticks)

    def struck(tick: int) -> Collection[Address]:
        nonlocal ticks, trace
        if tick >= ticks and config.failures.scenario != CLOCK:
            ticks *= 2
            trace = due_trace(config, ticks)
        return seats_hit(strikes(trace, tick), config.stages + 1, config.replicas)

    return struck


def hung_seats(config: Config) -> Callable[[int], Collection[Address]]:
    """tick -> those of the ``struck_seats`` that hang where processes can: they fall silent and
    end nothing. For what is trained that is a loss as any other."""
    drawn = config.failures.scenario == CLOCK  # those only crash
    due = () if drawn else due_trace(config)
    trace = tuple(failure for failure in due if failure.kind == STOP)
    stages = config.stages + 1
    return lambda tick: seats_hit(strikes(trace, tick), stages, config.replicas)


def stages_at_risk(config: Config) -> frozenset[int]:
    """Those that the configured failures hit, as far as they are drawn ahead."""
    return frozenset(failure.stage for failure in due_trace(config))

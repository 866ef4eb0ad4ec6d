"""A configuration, rehearsed: from its keys to seats, sizes and strikes on a fleet's clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.failures import (
    CLOCK,
    arrivals,
    poisson_rate_per_hour,
    sample,
    seats_hit,
    target_stages,
    tick_probability,
)
from checkfree.failures import strikes as strikes_of
from checkfree.recovery.wrappers import make_strategy
from checkfree.session.auto_schedule import with_schedule
from checkfree.session.routing import network_of
from checkfree.session.sizes import recovery_of
from checkfree.session.terms import scheduler_of, seats, terms_of
from checkfree.simulator.failure_schedule import ClockStrikes, FailureSchedule, TickStrikes
from checkfree.simulator.rehearse import Rehearsal, RehearsalSetting
from checkfree.simulator.rehearse import rehearse as rehearse_setting


def rehearse(
    config: Config, listener: Callable[[int], object] = bool, until: int | None = None
) -> Rehearsal:
    """The run that ``config`` would make, on its fleet, for at most ``until`` ticks. Raises
    BadInput."""
    config = with_schedule(config)
    return rehearse_setting(setting(config), strikes(config), listener, until)


def setting(config: Config) -> RehearsalSetting:
    """What is simulated. Snapshots for ``--resume`` are nobody's cost (semantics 16)."""
    config, every = with_schedule(config), seats(config)
    network = network_of(config, every, scheduler_of(config))
    return RehearsalSetting(
        seats=every,
        strategy=make_strategy(recovery_of(config), config.checkpoint.every),
        terms=replace(terms_of(config, None, network), resume_every=0, blind=True),
        fleet=network.fleet,
        sizes=network.sizes,
        pace=network.pace,
        averages_moments=config.recovery.optimizer == "average",
        average_last=config.average.last,
    )


def strikes(config: Config) -> FailureSchedule:
    """The configured failures: on the clock, or by tick. Raises BadInput."""
    if config.failures.scenario != CLOCK:
        return _by_tick(config)
    failures = config.failures
    if failures.rate_per_hour is None:
        raise BadInput("failures.scenario clock needs failures.rate_per_hour, as in 0.1 for 10 %")
    tick_probability(failures)
    rate = poisson_rate_per_hour(failures.rate_per_hour)
    seed = config.seed if failures.seed is None else failures.seed
    targets = target_stages(failures.stages, config.stages)
    return ClockStrikes(
        {stage: arrivals(seed, stage, rate) for stage in targets}, config.replicas, failures.first
    )


def _by_tick(config: Config) -> FailureSchedule:
    limit = terms_of(config, None).max_ticks
    size = {"stages": config.stages, "replicas": config.replicas}
    trace = sample(config.failures, seed=config.seed, ticks=limit, **size)
    ticks = {failure.tick for failure in trace}
    return TickStrikes(
        {
            tick: seats_hit(strikes_of(trace, tick), config.stages + 1, config.replicas)
            for tick in ticks
        }
    )

"""A configuration, rehearsed: from its keys to seats, sizes and strikes on a fleet's clock."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

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
from checkfree.session.sizes import recovery_of, sizes_of
from checkfree.session.terms import seats, terms_of
from checkfree.simulator.failure_schedule import ClockStrikes, FailureSchedule, TickStrikes
from checkfree.simulator.fleet import fleet_of
from checkfree.simulator.profile import Profile, read_profile
from checkfree.simulator.rehearse import Rehearsal, RehearsalSetting
from checkfree.simulator.rehearse import rehearse as rehearse_setting
from checkfree.simulator.sizes import pace_of


def rehearse(
    config: Config, listener: Callable[[int], object] = bool, until: int | None = None
) -> Rehearsal:
    """The run that ``config`` would make, on its fleet, for at most ``until`` ticks. Raises
    BadInput."""
    return rehearse_setting(setting(config), strikes(config), listener, until)


def setting(config: Config) -> RehearsalSetting:
    """What is simulated. Snapshots for ``--resume`` are nobody's cost (semantics 16)."""
    fleet, sizes, profile = fleet_of(config.fleet), sizes_of(config), _profile(config)
    if profile is not None and fleet.serial and config.fleet.store is None:
        fleet = replace(fleet, store=profile.store)
    return RehearsalSetting(
        seats=seats(config),
        strategy=make_strategy(recovery_of(config), config.checkpoint.every),
        terms=replace(terms_of(config, None), resume_every=0, blind=True),
        fleet=fleet,
        sizes=sizes,
        pace=pace_of(sizes, fleet, profile),
        averages_moments=config.recovery.optimizer == "average",
        average_last=config.average.last,
    )


def _profile(config: Config) -> Profile | None:
    """The one that is named, if it is of ops of this configuration's sizes. Raises BadInput."""
    path, model = config.fleet.profile, config.model
    if path is None:
        return None
    profile = read_profile(Path(os.path.expanduser(path)))
    own = {
        "batch": config.batch,
        "context": model.context,
        "width": model.width,
        "blocks_per_stage": model.blocks // config.stages,
    }
    for key, value in own.items():
        if profile.sizes.get(key, value) != value:
            raise BadInput(
                f"fleet.profile={path} measured {key} {profile.sizes[key]}, this run has {value}: "
                "write one of this run by checkfree profile"
            )
    return profile


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

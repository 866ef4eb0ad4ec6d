"""What a configuration means to a lead: its seats and its terms. No tensors."""

from __future__ import annotations

from functools import partial

from checkfree.core.config import Config
from checkfree.core.ops import Address, Route, Schedule
from checkfree.lead import Terms
from checkfree.messages.control import AVERAGE, RESUME
from checkfree.pipeline import SCHEDULES, Scheduler, check, chunks_of
from checkfree.plugins import chosen
from checkfree.session.routing import Network, router_of

TICKS_PER_ITERATION = 50
"""A run that rolls back more than this many times its length gets nowhere."""


def seats(config: Config) -> tuple[Address, ...]:
    """All seats of a configuration, stage by stage."""
    stages, replicas = range(config.stages + 1), range(config.replicas)
    return tuple(Address(stage, replica) for stage in stages for replica in replicas)


def devices_of(config: Config) -> list[str]:
    """By stage the device that it stands on: runs of neighbours share one."""
    devices, count = config.devices, config.stages + 1
    return [devices[stage * len(devices) // count] for stage in range(count)]


def terms_of(config: Config, tokens: int | None, network: Network | None = None) -> Terms:
    """What the lead has to know of a configuration; ``network``: that of its fleet, if somebody has
    made it already."""
    schedule = partial(_checked_schedule, scheduler_of(config))
    return Terms(
        iterations=config.iterations,
        microbatches=config.microbatches,
        schedule=schedule,
        routes=router_of(config, seats(config), schedule, network),
        chunks=chunks_of(config.schedule),
        clip=config.optimizer.clip,
        clip_over=config.optimizer.clip_over,
        validation_every=config.validation.every,
        validation_microbatches=config.validation.microbatches,
        validate_after_repair=config.validation.every > 0 and config.validation.after_repair,
        resume_every=config.resume.every,
        average_every=config.average.every or 0,
        max_ticks=TICKS_PER_ITERATION * config.iterations,
        tokens=tokens,
    )


def kept_of(config: Config) -> dict[str, int]:
    """How many archives stay of an area of the store, where it is not the store that says so."""
    return {RESUME: config.resume.keep, AVERAGE: config.average.last}


def scheduler_of(config: Config) -> Scheduler:
    """What makes the schedules of a run. Raises BadInput."""
    return chosen("schedule", config.schedule, SCHEDULES, config.code)


def _checked_schedule(scheduler: Scheduler, routes: tuple[Route, ...]) -> Schedule:
    schedule = scheduler(routes)
    check(schedule, routes)
    return schedule

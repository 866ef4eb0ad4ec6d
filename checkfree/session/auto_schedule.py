"""``schedule=auto``: the schedule by which an iteration takes the shortest on the configured fleet,
of those whose seats have the memory. Chosen before a run begins, so its records have it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from checkfree.config.check import check as check_config
from checkfree.config.stash import AUTO as STASH_AUTO
from checkfree.config.stash import KEEP, RECOMPUTE, stash_of
from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.core.units import render_bytes
from checkfree.lead.iteration import course_on
from checkfree.pipeline import SCHEDULES, ScheduleError, check, chunks_of
from checkfree.pipeline.routes import in_order
from checkfree.recovery.options import AUTO
from checkfree.recovery.wrappers import make_strategy
from checkfree.session.memory import seat_bytes
from checkfree.session.routing import network_of
from checkfree.session.sizes import OWN, named_sizes
from checkfree.session.terms import scheduler_of, seats

USUAL = "1f1b"
"""Taken unless another one is faster by more than a hundredth: on one thread none is."""
WORTH = 0.99


@dataclass(frozen=True)
class ScheduleOption:
    """A schedule, by what it takes: ``seconds`` of an iteration and ``bytes`` of its largest seat.
    ``refused``: why it can't be; "": it can."""

    name: str
    seconds: float
    bytes: int
    refused: str = ""


def with_schedule(config: Config) -> Config:
    """With the schedule that ``auto`` leaves to us; as it is, if one is named. Raises BadInput."""
    if config.schedule != AUTO:
        return config
    return replace(config, schedule=chosen_of(schedule_options(config)).name)


def schedule_options(config: Config) -> Sequence[ScheduleOption]:
    """All that are ours, the usual one first."""
    if config.fleet.memory is not None and named_sizes(config.fleet) != OWN:
        raise BadInput(
            "fleet.memory is what seats of the trained model have, and fleet.sizes prices another "
            "one: fleet.sizes=own, or leave fleet.memory out"
        )
    most = config.fleet.memory or _of_this_machine() // len(seats(config))
    names = sorted(SCHEDULES, key=lambda name: name != USUAL)
    return [_option(replace(config, schedule=name), most) for name in names]


def chosen_of(options: Sequence[ScheduleOption]) -> ScheduleOption:
    """The fastest. Raises BadInput if none can be."""
    found = [option for option in options if not option.refused]
    if not found:
        least = min(options, key=lambda option: option.bytes or float("inf"))
        raise BadInput(f"schedule=auto: {least.refused}")
    fastest = min(found, key=lambda option: option.seconds)
    usual = found[0]
    return fastest if fastest.seconds < WORTH * usual.seconds else usual


def _of_this_machine() -> int:
    """All of its memory: what is free of that may be another share tomorrow."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _option(config: Config, most: int) -> ScheduleOption:
    name = config.schedule
    try:
        check_config(config)
        taken = _least_bytes(config) if named_sizes(config.fleet) == OWN else 0
        if taken > most:
            why = (
                f"{name} takes {render_bytes(taken)} a seat, and there are {render_bytes(most)}: "
                "lower batch, or raise fleet.memory"
            )
            return ScheduleOption(name, 0.0, taken, why)
        return ScheduleOption(name, _seconds(config), taken)
    except (BadInput, ScheduleError) as error:
        return ScheduleOption(name, 0.0, 0, str(error).splitlines()[0])


def _least_bytes(config: Config) -> int:
    """Of the largest seat, whose stash is kept unless ``stash=auto`` may have it computed again."""
    ways = [KEEP, RECOMPUTE] if STASH_AUTO in stash_of(config) else [config.stash]
    return min(seat_bytes(replace(config, stash=way)) for way in ways)


def _seconds(config: Config) -> float:
    """Of an iteration, in order through all seats."""
    make, every = scheduler_of(config), seats(config)
    strategy = make_strategy(config.recovery, config.checkpoint.every)
    plain = in_order(every, config.microbatches)
    course = course_on(plain, strategy, make, every, chunks_of(config.schedule))
    check(course.schedule, course.routes)
    return network_of(config, every, make).seconds(course)

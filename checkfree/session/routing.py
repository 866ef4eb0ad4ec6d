"""The fleet that a configuration describes, and the routes that are taken on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from checkfree.config.stash import OFFLOAD, RECOMPUTE, stash_of
from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.core.links import AUTO, Way
from checkfree.core.ops import Address, Course, Route, Schedule
from checkfree.lead.iteration import course_on
from checkfree.models.chunks import Chunks
from checkfree.pipeline import chunks_of
from checkfree.pipeline.flow import IN_ORDER, NEAREST, by_flow, nearest
from checkfree.pipeline.routes import in_order, revisiting
from checkfree.recovery.registry import spec_of
from checkfree.recovery.wrappers import make_strategy
from checkfree.session.sizes import sizes_of
from checkfree.simulator.fleet import SEARCHED, Fleet, fleet_of
from checkfree.simulator.iteration import price_iteration
from checkfree.simulator.planning import placed, traffic_of
from checkfree.simulator.profile import Profile, read_profile
from checkfree.simulator.sizes import ComputePace, Sizes, pace_of
from checkfree.simulator.surveyed import read_surveyed
from checkfree.simulator.wire import coarse_links, ways_between

Router = Callable[[Collection[Address], int], tuple[Route, ...]]
"""Makes routes through seats, one for each of so many microbatches."""

MakeSchedule = Callable[[tuple[Route, ...]], Schedule]


@dataclass(frozen=True)
class Network:
    """A fleet, and what there is to compute and to send on it."""

    fleet: Fleet
    sizes: Sizes
    pace: ComputePace

    def seconds(self, course: Course) -> float:
        """That an iteration takes so, if nothing is kept of it or sent beside it."""
        how = self.fleet, self.sizes, self.pace
        return price_iteration(course.routes, course.schedule, (), (), *how).total


def network_of(config: Config, seats: Collection[Address], schedule: MakeSchedule) -> Network:
    """As ``fleet`` describes it, with its machines given to ``seats``, and formats to slow links if
    they are to be chosen. Raises BadInput."""
    fleet, sizes, profile = _fleet(config), sizes_of(config), profile_of(config)
    if profile is not None and fleet.serial and config.fleet.store is None:
        fleet = replace(fleet, store=profile.store)
    ways = stash_of(config)  # of ``auto``, which looks at this machine's memory: as if kept
    again, offload = (
        frozenset(stage for stage, way in enumerate(ways) if way == wanted)
        for wanted in (RECOMPUTE, OFFLOAD)
    )
    pace = replace(
        pace_of(sizes, fleet, profile), again=again, offload=offload, room=config.stash_room
    )
    found = Network(fleet, sizes, pace)
    if config.fleet.placement == SEARCHED and fleet.places > 1:
        routes = revisiting(in_order(seats, config.microbatches), chunks_of(config.schedule))
        course = Course(routes, schedule(routes))
        taken = {way for route in routes for way in pairwise(route) if way[0] != way[1]}
        both = {*taken, *((other, one) for one, other in taken)}

        def seconds(option: Fleet) -> float:
            return _wired(replace(found, fleet=option), config, both).seconds(course)

        found = replace(found, fleet=placed(fleet, seats, seconds))
    if config.wire.links[1:]:  # they were chosen when the run began
        return found
    swaps = spec_of(config.recovery).swaps(config.recovery)
    # Where a route begins anew at stage 1, the last stage sends to the next but one.
    far = 1 + bool(swaps) + (chunks_of(config.schedule) is Chunks.LOOP)
    return _wired(found, config, ways_between(seats, far))


def _wired(network: Network, config: Config, ways: Collection[Way]) -> Network:
    """With the formats of these links chosen, if the configuration leaves that to us."""
    if config.wire.links[:1] != (AUTO,):
        return network
    plain = replace(network.sizes, links={})
    links = coarse_links(ways, network.fleet, plain, network.pace)
    return replace(network, sizes=replace(plain, links=links))


def router_of(
    config: Config,
    seats: Collection[Address],
    schedule: MakeSchedule,
    network: Network | None = None,
) -> Router:
    """Of a run with these ``seats`` in all. ``network``: what ``network_of`` made, if it has."""
    if config.routes == IN_ORDER or config.replicas == 1:
        return in_order
    return _OnNetwork(config, tuple(seats), schedule, network)


@dataclass(frozen=True)
class _OnNetwork:
    """A router that asks what links and seats take. Looked at when the first routes are made, for
    that takes seconds where the placement is searched."""

    config: Config
    seats: tuple[Address, ...]
    schedule: MakeSchedule
    known: Network | None

    def __call__(self, alive: Collection[Address], num_microbatches: int) -> tuple[Route, ...]:
        n = self._network
        traffic = traffic_of(alive, n.fleet, n.sizes, n.pace)
        if self.config.routes == NEAREST:
            return nearest(alive, num_microbatches, traffic)
        strategy = make_strategy(self.config.recovery, self.config.checkpoint.every)

        def seconds(routes: tuple[Route, ...]) -> float:
            chunks = chunks_of(self.config.schedule)
            return n.seconds(course_on(routes, strategy, self.schedule, alive, chunks))

        return by_flow(alive, num_microbatches, traffic, seconds)

    @cached_property
    def _network(self) -> Network:
        return self.known or network_of(self.config, self.seats, self.schedule)


def _fleet(config: Config) -> Fleet:
    """The described one, on its own lines or on measured ones. Raises BadInput."""
    fleet, path = fleet_of(config.fleet), config.fleet.links
    if path is None:
        return fleet
    found = read_surveyed(Path(os.path.expanduser(path))).over(fleet)
    return replace(found, name=f"{fleet.name}, lines of {Path(path).name}")


def profile_of(config: Config) -> Profile | None:
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

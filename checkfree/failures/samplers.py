"""How failures fall: alone, by the clock, in bursts, in neighbouring pairs, by whole nodes.

A sampler is a function of one frozen :class:`Setting` to failures, in any order, some perhaps
twice; ``scenarios.sample`` makes the trace. What a sampler says of ticks below k never depends
on ``ticks``, so that a run may ask for more ticks than it will need.

Every sampler draws from two random streams: chances per tick, and arrivals in time. Each stage has
its own stream and tick t uses its t-th number, so that neither the length of a trace nor the other
stages change what happens to a stage (semantics 4). For the same reason the failures at a lower
probability are among those at a higher one. ``random.Random.random`` is used because Python
promises its numbers for a seed across versions.
"""

from __future__ import annotations

import math
import random as stdlib_random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from types import MappingProxyType

from checkfree.core.errors import BadInput
from checkfree.core.ops import Address
from checkfree.core.units import derive
from checkfree.failures.rates import SECONDS_PER_HOUR, poisson_rate_per_hour
from checkfree.failures.trace import Failure


@dataclass(frozen=True)
class Setting:
    """What a sampler may know: the numbers of ``FailuresConfig``, resolved against a pipeline."""

    seed: int
    probability: float
    """Of an event, per stage (or node) and tick."""
    targets: tuple[int, ...]
    """Stages that may be lost, ascending."""
    replicas: int
    ticks: int
    seconds_per_iteration: float
    burst: int
    seats_per_node: int


Sampler = Callable[[Setting], Iterator[Failure]]


def random(setting: Setting) -> Iterator[Failure]:
    """Each stage by itself, each tick with the same probability: the paper's model."""
    for stage, tick in _events(setting):
        yield Failure(tick, stage)


def poisson(setting: Setting) -> Iterator[Failure]:
    """Each stage on its own clock; an arrival strikes the tick that it falls in.

    The rate is such that a tick has an arrival with the given probability, so this differs from
    ``random`` in its draws, not in its law. Two arrivals in one tick are one failure.
    """
    if setting.probability >= 1:
        raise BadInput(
            f"failures.scenario poisson needs a probability below 1 per tick, got "
            f"{setting.probability}: lower it, or use failures.scenario random"
        )
    length = setting.seconds_per_iteration
    rate = poisson_rate_per_hour(setting.probability) * SECONDS_PER_HOUR / length
    for stage in setting.targets:
        # Compared as floats: a tiny rate's first arrival may be infinitely far away.
        ticks = (seconds // length for seconds in arrivals(setting.seed, stage, rate))
        within = takewhile(lambda tick: tick < setting.ticks, ticks)
        yield from (Failure(int(tick), stage) for tick in within)


def bursts(setting: Setting) -> Iterator[Failure]:
    """An event loses its stage, and then one stage in each of the next ``burst`` - 1 ticks, drawn
    among those that may be lost."""
    for stage, tick in _events(setting):
        yield Failure(tick, stage)
        draw = stdlib_random.Random(derive(setting.seed, "burst", stage, tick)).random
        for later in range(tick + 1, min(tick + setting.burst, setting.ticks)):
            yield Failure(later, setting.targets[int(draw() * len(setting.targets))])


def adjacent(setting: Setting) -> Iterator[Failure]:
    """An event at stage i loses i and i+1 together, where both may be lost.

    The loss that a mean of neighbours cannot repair, and that the paper assumes away.
    """
    targets = frozenset(setting.targets)
    if not any(stage + 1 in targets for stage in targets):
        raise BadInput(
            f"failures.scenario adjacent needs two neighbouring stages, failures.stages names "
            f"{list(setting.targets)}: use body, or a list such as [2, 3]"
        )
    for stage, tick in _events(setting):
        if stage + 1 in targets:
            yield Failure(tick, stage)
            yield Failure(tick, stage + 1)


def nodes(setting: Setting) -> Iterator[Failure]:
    """An event loses a machine with every seat on it, ``seats_per_node`` of them."""
    for node in pack(setting.targets, setting.replicas, setting.seats_per_node):
        for tick in struck(setting.seed, node[0], setting.probability, setting.ticks):
            yield from (Failure(tick, seat.stage, seat.replica) for seat in node)


def pack(
    stages: tuple[int, ...], replicas: int, seats_per_node: int
) -> tuple[tuple[Address, ...], ...]:
    """The seats of ``stages`` on machines, in address order; the last may be part empty.

    Stages that are not named stand elsewhere and are never lost with these.
    """
    seats = [Address(stage, replica) for stage in stages for replica in range(replicas)]
    starts = range(0, len(seats), seats_per_node)
    return tuple(tuple(seats[start : start + seats_per_node]) for start in starts)


# --- the streams ---------------------------------------------------------------------------------


def struck(seed: int, place: tuple[int, ...], probability: float, ticks: int) -> list[int]:
    """The ticks below ``ticks`` at which ``place`` (a stage, or a seat) is struck, ascending."""
    draw = stdlib_random.Random(derive(seed, "failures", *place)).random
    return [tick for tick in range(ticks) if draw() < probability]


def arrivals(seed: int, stage: int, rate_per_hour: float) -> Iterator[float]:
    """Seconds since the start at which ``stage`` fails, ascending, without end (semantics 9).

    ``rate_per_hour`` is λ of a Poisson process (``poisson_rate_per_hour`` of a probability); at 0
    nothing comes. A higher rate plays the same events faster.
    """
    if rate_per_hour <= 0:
        return
    draw = stdlib_random.Random(derive(seed, "arrivals", stage)).random
    hours = 0.0
    while True:
        hours -= math.log1p(-draw()) / rate_per_hour
        yield hours * 3600.0


def _events(setting: Setting) -> Iterator[tuple[int, int]]:
    for stage in setting.targets:
        for tick in struck(setting.seed, (stage,), setting.probability, setting.ticks):
            yield stage, tick


SAMPLERS: Mapping[str, Sampler] = MappingProxyType(
    {
        "random": random,
        "poisson": poisson,
        "bursts": bursts,
        "adjacent": adjacent,
        "nodes": nodes,
    }
)
"""What ``failures.scenario`` may be called, besides ``none``, a preset and a trace file."""

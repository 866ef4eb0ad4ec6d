"""Routes of a swarm, by what it has measured of itself: what is sent and computed anyway."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property

from checkfree.core.config import Config
from checkfree.core.ops import Address, Course, Route
from checkfree.lead.iteration import course_on
from checkfree.lead.progress import Terms
from checkfree.messages.control import Reroute
from checkfree.pipeline.flow import NEAREST, by_flow, nearest
from checkfree.pipeline.routes import revisiting
from checkfree.recovery.strategy import Strategy
from checkfree.session.routing import Network
from checkfree.session.sizes import own_sizes
from checkfree.simulator.measured import (
    MeasuredFleet,
    fleet_measured,
    pace_measured,
    rates_measured,
)
from checkfree.simulator.planning import traffic_of
from checkfree.simulator.sizes import Sizes

WORTH = 0.95
"""Other ways are taken if an iteration takes no more than so many times as long: measurements vary
by some hundredths."""

TURNS = 3
"""So often, at most, while the same seats live: ways that nobody had used before may be slower than
was guessed, and are measured then."""

MOST_HOPS = 10_000
"""Of a search, during which the lead hears nothing: a tenth of a second."""


class MeasuredRoutes:
    """Asked after each iteration. New routes are worth a plan only when members have changed, or
    when what was guessed for them is measured."""

    def __init__(self, config: Config, strategy: Strategy, terms: Terms):
        self._config, self._strategy, self._terms = config, strategy, terms
        self._seats: tuple[Address, ...] = ()
        self._turns = 0
        self._measured = frozenset[tuple[Address, Address]]()
        """Lines that were known when routes were made last."""
        self._rates = dict[tuple[Address, Address], float]()
        """Of lines that these seats use or have used: what is avoided for being slow stays slow."""

    def better(
        self, alive: Collection[Address], routes: tuple[Route, ...], found: MeasuredFleet
    ) -> Reroute | None:
        """Than ``routes``, which those alive go by now; None: there are none, or not enough is
        known yet."""
        seats = tuple(sorted(alive))
        if seats != self._seats:
            self._seats, self._turns, self._measured, self._rates = seats, 0, frozenset(), {}
        taken = revisiting(self._strategy.routes(routes), self._terms.chunks)
        news = found.lines.keys() - self._measured
        if self._turns >= TURNS or not news or not found.covers(taken):
            return None
        self._turns, self._measured = self._turns + 1, frozenset(found.lines)
        self._rates |= rates_measured(found, taken, self._sizes)
        network = Network(
            fleet_measured(self._rates, found.nodes, self._seats),
            self._sizes,
            pace_measured(found, taken, self._seats, self._sizes),
        )
        made = self._made(network)
        if network.seconds(self._course(made)) >= WORTH * network.seconds(self._course(routes)):
            return None
        return Reroute(self._seats, made)

    def _made(self, network: Network) -> tuple[Route, ...]:
        count = self._terms.microbatches
        traffic = traffic_of(self._seats, network.fleet, network.sizes, network.pace)
        if self._config.routes == NEAREST:
            return nearest(self._seats, count, traffic)

        def seconds(routes: tuple[Route, ...]) -> float:
            return network.seconds(self._course(routes))

        return by_flow(self._seats, count, traffic, seconds, MOST_HOPS)

    def _course(self, routes: tuple[Route, ...]) -> Course:
        terms = self._terms
        return course_on(routes, self._strategy, terms.schedule, self._seats, terms.chunks)

    @cached_property
    def _sizes(self) -> Sizes:
        return own_sizes(self._config)

"""Machines and links: how far apart two seats are, and how fast each of them computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from checkfree.core.config import FleetConfig
from checkfree.core.errors import BadInput, one_of
from checkfree.core.ops import Address
from checkfree.plugins import check_known, chosen
from checkfree.simulator import sites

MIB, GB = 2**20, 1e9

BUS = 25 * GB
"""Bytes per second from a GPU to pinned memory of its host: PCIe 4.0 with 16 lanes, less what its
protocol takes."""

AS_IT_IS, SEARCHED = PLACEMENTS = ("fixed", "searched")


@dataclass(frozen=True)
class Link:
    """One way. ``latency`` in seconds, ``bandwidth`` in bytes per second."""

    latency: float
    bandwidth: float

    def seconds(self, count: int) -> float:
        """For ``count`` bytes to pass, without the latency."""
        return count / self.bandwidth


Line = tuple[Address, Address]
"""What sends queue for: from one seat to another; of a node with one uplink, to itself."""


@dataclass(frozen=True)
class Fleet:
    """One node a seat. Stages stand at one place after the other, and begin again at the first;
    each further replica of a stage ``spread`` places on."""

    name: str
    between: Callable[[int, int], Link]
    """(place, place) -> the link from one to the other; equal places: within one."""
    places: int
    flops: float
    """Floating-point operations that a node really does per second."""
    detection: float
    """Seconds until a loss is noticed."""
    replacement: float
    """Seconds until a replacement has joined, from then on."""
    store: float
    """Bytes per second between a node and the checkpoint store, each for itself."""
    shared_uplink: bool = False
    """A node's sends queue for one line, whomever they go to; else each link is by itself."""
    serial: bool = False
    """One thread runs everything, one op after another."""
    overlapped: bool = False
    """Checkpoints go to the store beside training; the next one waits for the last."""
    price: float | None = None
    """Of a node, per hour."""
    offload: float = 1 * GB
    """Bytes per second between a node's memory and where it offloads what it has stashed to, each
    way: of a local disk, or of a GPU's bus."""
    spread: int = 0
    standing: Mapping[Address, int] = field(default_factory=dict)
    """The places of seats that stand elsewhere than so."""

    def link(self, one: Address, other: Address) -> Link:
        """From one seat to another."""
        return self.between(self.place(one), self.place(other))

    def line(self, one: Address, other: Address) -> Line:
        """What a send from one seat to another queues for."""
        return (one, one) if self.shared_uplink else (one, other)

    def place(self, seat: Address) -> int:
        """Where a seat stands."""
        usual = (seat.stage + self.spread * seat.replica) % self.places
        return self.standing.get(seat, usual)


def _sevenfold(one: int, other: int) -> Link:
    pair = sites.SITES[one], sites.SITES[other]
    found = sites.BETWEEN.get(pair) or sites.BETWEEN.get((pair[1], pair[0])) or sites.SAME_SITE
    return Link(found[0] / 1000, found[1] * sites.GIB)


def _everywhere(latency: float, bandwidth: float) -> Callable[[int, int], Link]:
    link = Link(latency, bandwidth)
    return lambda one, other: link


FLEETS: Mapping[str, Fleet] = MappingProxyType(
    {
        fleet.name: fleet
        for fleet in (
            Fleet(
                "paper",
                _sevenfold,
                places=len(sites.SITES),
                flops=15e12,
                detection=2.0,
                replacement=0.0,
                store=3 * sites.STAGE / sites.CHECKPOINT_SECONDS,
                offload=BUS,
                spread=2,
            ),
            Fleet(
                "datacenter",
                _everywhere(50e-6, 12.5 * GB),
                places=1,
                flops=150e12,
                detection=1.0,
                replacement=30.0,
                store=2 * GB,
                offload=BUS,
            ),
            Fleet(
                "machine",
                _everywhere(10e-6, 50 * GB),
                places=1,
                flops=150e12,
                detection=0.1,
                replacement=1.0,
                store=2 * GB,
                offload=BUS,
            ),
            Fleet(
                "home",
                _everywhere(0.03, 2.5e6),
                places=1,
                flops=15e12,
                detection=3.0,
                replacement=60.0,
                store=2.5e6,
                offload=BUS,
                shared_uplink=True,
            ),
            Fleet("thread", _everywhere(0.0, math.inf), 1, 50e9, 0.0, 0.0, 0.3 * GB, serial=True),
        )
    }
)
"""By name. ``paper`` is measured (see ``sites``), but for the places of its replicas, which are not
told: only if they stand at different sites does an iteration take the published 91 s. The others
are round figures of their kind."""


def check_fleet(fleet: FleetConfig) -> None:
    """Raise BadInput for the first value that no fleet could have."""
    check_known("fleet.name", fleet.name, FLEETS)
    one_of("fleet.upload", fleet.upload, ("blocking", "overlapped"))
    one_of("fleet.placement", fleet.placement, PLACEMENTS)
    for name in ("detection", "replacement", "price"):
        value = getattr(fleet, name)
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise BadInput(f"fleet.{name}={value}: expected a number of at least 0")
    if fleet.memory is not None and fleet.memory < 1:
        raise BadInput(f"fleet.memory={fleet.memory}: expected bytes, 1 or more")
    for name in ("flops", "store", "offload"):
        value = getattr(fleet, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise BadInput(f"fleet.{name}={value}: expected a number above 0")


def fleet_of(config: FleetConfig) -> Fleet:
    """The preset with the configuration's own values over it. Raises BadInput."""
    check_fleet(config)
    names = ("flops", "detection", "replacement", "store", "offload", "price")
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    fleet = chosen("fleet.name", config.name, FLEETS, config.code)
    return replace(fleet, overlapped=config.upload == "overlapped", **given)

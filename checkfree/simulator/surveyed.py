"""Machines and the lines between them as ``checkfree profile --links`` measured them: a fleet to
simulate on. Read and checked.

A small JSON file; seconds one way, bytes per second::

    {"format": 1, "checkfree": "0.1.0",
     "machines": [{"name": "here", "seats": ["0.0", "1.0"]}, {"name": "there", "seats": ["2.0"]}],
     "links": [{"from": "here", "to": "there", "latency": 0.04, "bandwidth": 1.2e6}, …]}
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import median_low
from typing import Any

from checkfree.core.errors import BadInput
from checkfree.core.ops import Address
from checkfree.simulator.fleet import GB, Fleet, Link
from checkfree.simulator.sizes import Sizes

FORMAT = 1
LARGEST = 1 << 24
"""Bytes of a file."""
MOST = 256
"""Machines."""
WITHIN = Link(10e-6, 50 * GB)
"""Between two seats of one machine, as in the fleet ``machine``."""
SLOW = 2.0
"""Times what most pairs take: measured lines vary by less."""


@dataclass(frozen=True)
class SurveyedFleet:
    """``machines``: by name, with the seats that stand there; ``links``: by (from, to). There is
    one at least where there are two machines."""

    machines: Mapping[str, tuple[Address, ...]]
    links: Mapping[tuple[str, str], Link]

    @classmethod
    def from_json(cls, tree: Any) -> SurveyedFleet:
        """Raises ValueError, saying what is missing or wrong."""
        if not isinstance(tree, Mapping) or tree.get("format") != FORMAT:
            raise ValueError(f"it is no object of format {FORMAT}")
        machines = dict(_machine(plain) for plain in _list(tree, "machines"))
        seats = [seat for some in machines.values() for seat in some]
        if not 0 < len(machines) == len(tree["machines"]) <= MOST:
            raise ValueError(f"expected 1 to {MOST} machines, each of another name")
        if len(set(seats)) < len(seats):
            raise ValueError("a seat stands on two machines")
        links = dict(_link(plain, machines) for plain in _list(tree, "links"))
        if len(machines) > 1 and not links:
            raise ValueError("it has machines, and no link between them")
        return cls(machines, links)

    def to_json(self, version: str) -> dict[str, Any]:
        """Plain data that :meth:`from_json` makes the same of. ``version``: of checkfree."""
        return {
            "format": FORMAT,
            "checkfree": version,
            "machines": [
                {"name": name, "seats": [str(seat) for seat in seats]}
                for name, seats in self.machines.items()
            ],
            "links": [
                {"from": one, "to": other, "latency": link.latency, "bandwidth": link.bandwidth}
                for (one, other), link in self.links.items()
            ],
        }

    def link(self, one: str, other: str) -> Link:
        """From one machine to another. What nobody could measure is as its way back, or else as
        slow as the slowest."""
        if one == other:
            return WITHIN
        found = self.links.get((one, other)) or self.links.get((other, one))
        every = self.links.values()
        return found or Link(max(x.latency for x in every), min(x.bandwidth for x in every))

    def slow(self, sizes: Sizes) -> frozenset[frozenset[str]]:
        """Pairs between which a microbatch and its gradient take much longer than between most."""
        takes = {
            frozenset((a, b)): sum(link.latency for link in (self.link(a, b), self.link(b, a)))
            + self.link(a, b).seconds(sizes.activation)
            + self.link(b, a).seconds(sizes.gradient)
            for a, b in combinations(self.machines, 2)
        }
        usual = median_low(takes.values()) if takes else 0.0
        return frozenset(pair for pair, seconds in takes.items() if seconds > SLOW * usual)

    def over(self, fleet: Fleet) -> Fleet:
        """That fleet with these machines and lines for its own. Seats that none of them has stand
        at one machine after the other."""
        names = list(self.machines)
        table = [[self.link(one, other) for other in names] for one in names]
        standing = {seat: n for n, name in enumerate(names) for seat in self.machines[name]}
        return replace(
            fleet,
            between=lambda one, other: table[one][other],
            places=len(names),
            standing=standing,
        )


def read_surveyed(path: Path) -> SurveyedFleet:
    """A file that ``checkfree profile --links`` wrote. Raises BadInput for any other."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise ValueError(f"it has more than {LARGEST >> 20} MiB")
        return SurveyedFleet.from_json(json.loads(text))
    except OSError as error:
        raise BadInput(f"fleet.links={path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(
            f"fleet.links={path}: no table of links ({reason}): write one by checkfree profile "
            "--links RUN"
        ) from None


def _list(tree: Mapping[str, Any], key: str) -> list[Any]:
    found = tree.get(key)
    if not isinstance(found, list):
        raise ValueError(f"it has no list of {key}")
    return found


def _machine(plain: Any) -> tuple[str, tuple[Address, ...]]:
    if not isinstance(plain, Mapping) or not isinstance(name := plain.get("name"), str):
        raise ValueError(f"a machine without a name: {plain!r:.60}")
    seats = plain.get("seats", [])
    if not isinstance(seats, list) or not all(isinstance(seat, str) for seat in seats):
        raise ValueError(f"machine {name!r:.40} has no list of seats")
    return name, tuple(map(Address.parse, seats))


def _link(plain: Any, machines: Mapping[str, Any]) -> tuple[tuple[str, str], Link]:
    if not isinstance(plain, Mapping):
        raise ValueError(f"no link: {plain!r:.60}")
    one, other = str(plain.get("from")), str(plain.get("to"))
    if one not in machines or other not in machines or one == other:
        raise ValueError(f"a link of no two machines: {plain!r:.80}")
    latency, bandwidth = _number(plain, "latency"), _number(plain, "bandwidth")
    if not bandwidth:
        raise ValueError(f"a line that carries nothing: {plain!r:.120}")
    return (one, other), Link(latency, bandwidth)


def _number(plain: Mapping[str, Any], key: str) -> float:
    value: Any = plain.get(key)
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"a link without a {key} of at least 0: {plain!r:.120}")
    return float(value)

"""Seats that are exchanged until an iteration takes as short as can be."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

from checkfree.config.load import build, merge, source_of
from checkfree.core.config import Config
from checkfree.core.ops import Address
from checkfree.session.rehearsal import rehearse, setting
from checkfree.simulator.fleet import FLEETS, Fleet
from checkfree.simulator.planning import placed
from checkfree.study.plan import base

SEATS = [Address(stage, replica) for stage in range(4) for replica in range(2)]


def hops_between_places(fleet: Fleet) -> float:
    """Of a way through the first replicas, and of replicas to each other."""
    places = [fleet.place(Address(stage)) for stage in (0, 1, 2, 3, 0)]
    apart = sum(fleet.place(Address(s)) != fleet.place(Address(s, 1)) for s in range(4))
    return sum(a != b for a, b in pairwise(places)) + 10 * apart


def test_replicas_come_to_stand_together_and_no_machine_comes_or_goes() -> None:
    fleet = replace(FLEETS["paper"], places=4, spread=2)
    found = placed(fleet, SEATS, hops_between_places)
    assert hops_between_places(fleet) > 40
    assert hops_between_places(found) <= 4
    assert Counter(map(found.place, SEATS)) == Counter(map(fleet.place, SEATS))


def test_a_placement_that_can_t_be_better_stays() -> None:
    fleet = FLEETS["paper"]
    found = placed(fleet, SEATS, lambda option: float(option.standing != _standing(fleet)))
    assert all(found.place(seat) == fleet.place(seat) for seat in SEATS)


def _standing(fleet: Fleet) -> dict[Address, int]:
    return {seat: fleet.place(seat) for seat in SEATS}


def paper(*words: str) -> Config:
    tree = base(source_of("paper/500m"), ["recovery.name=none", "failures.scenario=none", *words])
    return build(merge(tree, {"iterations": 2}))


def test_it_is_what_is_simulated_and_what_routes_are_made_for() -> None:
    """Smaller than the paper's fleet, so that it takes less than a second."""
    small = ("stages=3", "replicas=2", "microbatches=6", "model.blocks=3")
    plain, placed_too, both = (
        rehearse(paper(*small, *words)).priced.total
        for words in (
            (),
            ("fleet.placement=searched",),
            ("fleet.placement=searched", "routes=flow"),
        )
    )
    assert both <= placed_too < 0.8 * plain
    fixed = setting(paper(*small)).fleet
    assert not fixed.standing

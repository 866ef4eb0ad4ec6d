"""Which links are slow, and what they carry."""

from __future__ import annotations

from dataclasses import replace

import pytest

from checkfree.core.config import WireConfig
from checkfree.core.ops import Address
from checkfree.simulator.fleet import FLEETS, Fleet, Link
from checkfree.simulator.sizes import pace_of, published
from checkfree.simulator.wire import SHARE, coarse_links, ways_between

SIZES = published(3)
PACE = pace_of(SIZES, FLEETS["paper"])
SEATS = tuple(Address(stage) for stage in range(4))


def fleet(seconds: float) -> Fleet:
    """One on which an activation in fp32 takes so many times what a stage's forward does."""
    bandwidth = SIZES.activation / (seconds * PACE.bodies[0].forward)
    return replace(FLEETS["home"], between=lambda one, other: Link(1.0, bandwidth))


def chosen(seconds: float) -> dict[str, str]:
    found = coarse_links(ways_between(SEATS), fleet(seconds), SIZES, PACE)
    return {f"{one.stage}{other.stage}": how for (one, other), how in found.items()}


def test_ways_go_round_and_as_far_as_swaps_do() -> None:
    told = {f"{one.stage}{other.stage}" for one, other in ways_between(SEATS)}
    assert told == {"01", "12", "23", "30", "10", "21", "32", "03"}
    assert len(ways_between(SEATS, 2)) == 12


@pytest.mark.parametrize(
    ("seconds", "there", "back"),
    [
        (0.9 * SHARE, None, None),  # a backward takes twice as long
        (1.1 * SHARE, "bf16", None),
        (1.9 * SHARE, "bf16", None),
        (2.1 * SHARE, "int8", "bf16"),
        (7 * SHARE, "int8", "int8"),
        (9 * SHARE, "int8", "int4"),
    ],
)
def test_the_finest_that_is_fast_enough(
    seconds: float, there: str | None, back: str | None
) -> None:
    found = chosen(seconds)
    assert (found.get("12"), found.get("21")) == (there, back)
    assert (found.get("01"), found.get("10")) == (there, back)


def test_4_bits_are_for_gradients() -> None:
    assert chosen(99) == {
        **dict.fromkeys(("01", "12", "23", "30"), "int8"),
        **dict.fromkeys(("10", "21", "32", "03"), "int4"),
    }


def test_only_what_is_coarser_than_the_others() -> None:
    sizes, ways = published(3, WireConfig("bf16", "int8")), ways_between(SEATS)
    found = coarse_links(ways, fleet(99), sizes, PACE)
    assert {(one.stage, other.stage) for one, other in found} == {(1, 0), (2, 1), (3, 2), (0, 3)}
    assert {*found.values()} == {"int4"}

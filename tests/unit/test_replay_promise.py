"""What is said of the losses that come back exactly, held against ``survives`` itself."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkfree.core.ops import Address, Location
from checkfree.recovery.replay.plan import survives
from checkfree.recovery.replay.promise import laid_out, promise

A = Address


def at(machines: str, zones: str = "") -> dict[Address, Location]:
    zones = zones or " " * len(machines)
    return {
        A(s): Location(machine, zone.strip())
        for s, (machine, zone) in enumerate(zip(machines, zones, strict=True))
    }


def said(layout: dict[Address, Location], stages: int, copies: int = 1) -> str:
    seats = [A(stage) for stage in range(stages)]
    return str(promise(laid_out(seats, copies, layout), layout))


@pytest.mark.parametrize(
    ("layout", "copies", "expected"),
    [
        (
            {},
            1,
            "any one stage, any 3 adjacent stages; one machine may take all stages with their "
            "copies",
        ),
        (at("abcabc"), 1, "any one stage, any 2 adjacent stages, any one machine"),
        (at("ababab"), 1, "any one stage, any 3 adjacent stages, any one machine"),
        (
            at("abcdef"),
            2,
            "any one stage, any 3 adjacent stages, any two stages, any one machine",
        ),
        (at("abcabc"), 2, "any one stage, any two stages, any one machine"),
        (at("aabbcc", "eeeeww"), 1, "any one stage, any one machine, any one zone"),
        (at("aabbcc", "eeeee "), 1, "any one stage, any 2 adjacent stages, any one machine"),
        (at("abbb") | {A(4): Location("b")}, 1, "any one stage, any one machine"),
    ],
)
def test_sentences(layout: dict[Address, Location], copies: int, expected: str) -> None:
    assert said(layout, len(layout) or 6, copies).startswith(expected)


def test_what_can_t_be_lost_is_named() -> None:
    told = said(at("aabbaa", "eeeeee"), 6)
    assert told.endswith("any one machine; not zone e")
    assert said(at("aaaa"), 4).endswith(
        "; not machine a; one machine may take all stages with their copies"
    )
    partly = {A(0): Location("a"), A(1): Location("b")}
    assert said(partly, 3).endswith("; one machine may take stage 2 with all copies")


@given(st.integers(2, 7), st.integers(1, 2), st.integers(1, 2), st.data())
def test_what_is_said_is_so(stages: int, replicas: int, copies: int, data: st.DataObject) -> None:
    """Both ways: each that is named is lost, each other survives, and one stage more is too many
    somewhere."""
    seats = [A(s, r) for s in range(stages) for r in range(replicas)]
    places = st.builds(Location, st.sampled_from("abc"), st.sampled_from(["", "e", "w"]))
    layout = {seat: data.draw(places) for seat in seats}
    view = laid_out(seats, copies, layout)
    made = promise(view, layout)

    def all_of(*gone: int) -> list[Address]:
        return [seat for seat in seats if seat.stage in gone]

    def blocks(length: int) -> list[list[Address]]:
        firsts = range(stages - length + 1)
        return [all_of(*range(first, first + length)) for first in firsts]

    assert all(survives(lost, view) for n in range(1, made.block + 1) for lost in blocks(n))
    assert made.block == stages or not all(survives(lost, view) for lost in blocks(made.block + 1))
    pairs = [all_of(*pair) for pair in combinations(range(stages), 2)]
    assert made.any_two is all(survives(lost, view) for lost in pairs)
    for machine, survived in made.machines.items():
        lost = [seat for seat in seats if layout[seat].machine == machine]
        assert survived is survives(lost, view)
    machines = {place.machine for place in layout.values()}
    assert made.machines.keys() == machines
    if replicas == 1:  # of a machine's stages all copies are elsewhere
        assert all(made.machines.values()) is (len(machines) > 1)
        assert bool(made.beside) is (len(machines) == 1)


def test_of_many_stages_little_is_asked() -> None:
    made = promise(laid_out([A(s) for s in range(80)], 1, {}), {})
    assert (made.block, made.any_two) == (1, False)

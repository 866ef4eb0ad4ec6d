"""The words of a pipeline print as you would write them, and parse back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkfree.core.ops import (
    FAULTS,
    LEAD,
    LOG,
    STORE,
    Address,
    Kind,
    Op,
    Source,
    View,
    parse_route,
    render_route,
)

seats = st.builds(Address, st.integers(0, 999), st.integers(0, 99))
addresses = seats | st.sampled_from([LEAD, STORE, FAULTS, LOG])
numbered = st.sampled_from([Kind.FORWARD, Kind.BACKWARD, Kind.WEIGHTS, Kind.REDUNDANT])
ops = st.just(Op(Kind.REDUCE)) | st.builds(
    Op, numbered, st.integers(0, 10**6), st.integers(0, 1000)
)


@given(addresses)
def test_an_address_parses_back(address: Address) -> None:
    assert Address.parse(str(address)) == address


@given(ops)
def test_an_op_parses_back(op: Op) -> None:
    assert Op.parse(str(op)) == op


@given(st.lists(seats, min_size=1, max_size=8).map(tuple))
def test_a_route_parses_back(route: tuple[Address, ...]) -> None:
    assert parse_route(render_route(route)) == route


def test_words_read_as_in_the_documentation() -> None:
    assert str(Op(Kind.FORWARD, 3, 1)) == "F3@1"
    assert str(Op(Kind.WEIGHTS, 3, 1)) == "W3@1"
    assert str(Op(Kind.REDUNDANT, 3, 2)) == "R3@2"
    assert Op.parse("S3@2") == Op(Kind.REDUNDANT, 3, 2)  # as before
    assert str(Op(Kind.REDUCE)) == "R"
    assert [str(a) for a in (Address(2, 1), LEAD, STORE)] == ["2.1", "lead", "store"]
    assert str(Source(Address(2), 2, 5)) == "2.0@5"
    assert str(Source(Address(1), 0, 5)) == "1.0:0@5"


@pytest.mark.parametrize("text", ["", "2", "2.", "-1.0", "2.0.0", " 2.0", "Lead", "2.0\n"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not an address: .* \(expected '2.0', 'lead'"):
        Address.parse(text)


@pytest.mark.parametrize("text", ["", "F3", "F3@", "@1", "R@1", "X3@1", "F-1@0", "f3@1", "F3@1\n"])
def test_what_is_no_op_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not an op: .* \(expected 'F3@1'"):
        Op.parse(text)


def test_the_first_living_replica_speaks_for_a_stage() -> None:
    alive = frozenset(map(Address.parse, ("0.0", "1.2", "1.1")))
    view = View(alive, num_stages=3, committed=4)
    assert view.living(1) == Address(1, 1)
    assert view.living(2) is None

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkfree.core.errors import BadInput
from checkfree.core.ops import LEAD, Address, parse_route, render_route
from checkfree.pipeline.routes import (
    in_order,
    is_swapped,
    neighbours,
    next,
    previous,
    swap_partner,
    swapped,
)


def seats(num_body, num_replicas=1):
    return [Address(s, r) for s in range(num_body + 1) for r in range(num_replicas)]


def test_in_order_goes_out_through_the_body_and_back_to_stage_0():
    assert [render_route(r) for r in in_order(seats(3), 2)] == ["0.0 > 1.0 > 2.0 > 3.0 > 0.0"] * 2


def test_microbatches_take_turns_over_the_living_replicas():
    living = [Address.parse(seat) for seat in ("2.2", "0.1", "1.0", "0.0", "2.0")]
    assert [render_route(route) for route in in_order(living, 3)] == [
        "0.0 > 1.0 > 2.0 > 0.0",
        "0.1 > 1.0 > 2.2 > 0.1",
        "0.0 > 1.0 > 2.0 > 0.0",
    ]


def test_singletons_are_no_seats():
    assert in_order([LEAD, *seats(2)], 1) == in_order(seats(2), 1)


@pytest.mark.parametrize("gone", [0, 2])
def test_a_stage_without_a_seat_has_no_route(gone):
    living = [seat for seat in seats(3, 2) if seat.stage != gone]
    with pytest.raises(ValueError, match=f"stage {gone} has no living seat"):
        in_order(living, 4)


@pytest.mark.parametrize(
    ("num_body", "route"),
    [
        (4, "0.0 > 2.0 > 1.0 > 4.0 > 3.0 > 0.0"),
        (5, "0.0 > 2.0 > 1.0 > 3.0 > 5.0 > 4.0 > 0.0"),
        (7, "0.0 > 2.0 > 1.0 > 3.0 > 4.0 > 5.0 > 7.0 > 6.0 > 0.0"),
    ],
)
def test_odd_microbatches_swap_both_ends(num_body, route):
    plain = in_order(seats(num_body), 4)
    assert swapped(plain) == (plain[0], parse_route(route), plain[2], parse_route(route))


def test_swapping_keeps_the_replica_of_each_seat():
    route = parse_route("0.1 > 1.2 > 2.0 > 3.1 > 4.3 > 0.1")
    assert render_route(swapped([route], share=1)[0]) == "0.1 > 2.0 > 1.2 > 4.3 > 3.1 > 0.1"


@pytest.mark.parametrize("num_body", [1, 2, 3])
def test_below_four_body_stages_nothing_can_swap(num_body):
    with pytest.raises(BadInput, match=f"at least 4 body stages, got {num_body}: set stages"):
        swapped(in_order(seats(num_body), 2))


@pytest.mark.parametrize("share", [-0.1, 1.01, float("nan")])
def test_a_share_is_between_0_and_1(share):
    with pytest.raises(BadInput, match=r"recovery.share=.*: expected a share .* in \[0, 1\]"):
        swapped(in_order(seats(4), 2), share)


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_a_share_of_the_first_microbatches_is_swapped(count, thousandths):
    share = thousandths / 1000
    swaps = sum(is_swapped(microbatch, share) for microbatch in range(count))
    assert swaps == count * thousandths // 1000


def test_a_share_means_what_it_reads():
    assert [m for m in range(20) if is_swapped(m, 0.3)] == [3, 6, 9, 13, 16, 19]
    assert is_swapped(9, 0.1)
    assert [m for m in range(7) if is_swapped(m, Fraction(1, 3))] == [2, 5]
    assert [m for m in range(6) if is_swapped(m, 0.5)] == [1, 3, 5]


def test_neighbours_end_at_the_edges_of_the_body():
    assert [neighbours(stage, 4) for stage in range(1, 5)] == [(2,), (1, 3), (2, 4), (3,)]
    assert (previous(1, 4), next(4, 4)) == (None, None)
    assert (previous(4, 4), next(1, 4)) == (3, 2)
    assert neighbours(1, 1) == ()
    for stage in (0, 5):
        with pytest.raises(ValueError, match=f"stage {stage} is not in the body 1 … 4"):
            neighbours(stage, 4)


def test_swap_partners_are_the_two_stages_at_either_end():
    assert [swap_partner(stage, 6) for stage in range(7)] == [None, 2, 1, None, None, 6, 5]
    assert [swap_partner(stage, 4) for stage in range(5)] == [None, 2, 1, 4, 3]
    assert [swap_partner(stage, 3) for stage in range(4)] == [None] * 4


@given(st.integers(4, 12), st.integers(0, 3))
def test_partners_are_those_that_a_swapped_route_exchanges(num_body, replica):
    plain = in_order([Address(stage, replica) for stage in range(num_body + 1)], 1)[0]
    for here, there in zip(plain, swapped([plain], share=1)[0], strict=True):
        assert here == there or swap_partner(here.stage, num_body) == there.stage

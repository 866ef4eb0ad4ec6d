"""Routes by what links and seats can carry, against ways that can be told by hand."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkfree.core.ops import Address, Route, parse_route
from checkfree.pipeline import check, one_f_one_b
from checkfree.pipeline.flow import Hop, RouteTraffic, by_flow, nearest
from checkfree.pipeline.routes import in_order


def seats(stages: int, replicas: int) -> list[Address]:
    return [Address(s, r) for s in range(stages + 1) for r in range(replicas)]


def traffic(
    stages: int,
    replicas: int,
    slow: Mapping[str, float] | None = None,
    work: Mapping[str, float] | None = None,
) -> RouteTraffic:
    """Hops of 1 second each way and seats of 1 second, but for those that are named: lines as
    ``1.0 > 2.0``, both ways."""
    every = seats(stages, replicas)
    hops = {}
    for one in every:
        for other in every:
            if other.stage != (one.stage + 1) % (stages + 1):
                continue
            seconds = (slow or {}).get(f"{one} > {other}", 1.0)
            lines = (((one, other), seconds), ((other, one), seconds))
            hops[one, other] = Hop(lines, 2 * seconds)
    return RouteTraffic({seat: (work or {}).get(str(seat), 1.0) for seat in every}, hops)


def busiest(asked: RouteTraffic, routes: tuple[Route, ...]) -> float:
    """What the seat or line with the most to do has to do, and a little of all the rest."""
    load: Counter[tuple[Address, ...]] = Counter()
    for route in routes:
        for seat, following in pairwise(route):
            load[seat,] += asked.work[seat]  # type: ignore[assignment]
            for line, seconds in asked.hops[seat, following].lines:
                load[line] += seconds  # type: ignore[assignment]
    return max(load.values()) + 1e-6 * sum(load.values())


def test_the_nearest_replica_is_taken_until_it_has_its_share() -> None:
    asked = traffic(2, 2, {"0.0 > 1.0": 5.0, "0.1 > 1.0": 5.0, "1.1 > 2.0": 9.0})
    assert nearest(seats(2, 2), 4, asked) == tuple(
        map(
            parse_route,
            (
                "0.0 > 1.1 > 2.1 > 0.0",
                "0.1 > 1.1 > 2.1 > 0.1",
                "0.0 > 1.0 > 2.0 > 0.0",
                "0.1 > 1.0 > 2.0 > 0.1",
            ),
        )
    )


def test_flow_goes_round_a_slow_line() -> None:
    asked = traffic(2, 2, {"1.0 > 2.0": 50.0})
    routes = by_flow(seats(2, 2), 4, asked, lambda routes: busiest(asked, routes))
    assert not [r for r in routes if r[1:3] == (Address(1, 0), Address(2, 0))]
    assert Counter(seat for r in routes for seat in r[:-1]) == dict.fromkeys(seats(2, 2), 2)


def test_flow_gives_a_slow_seat_less_to_do_and_a_very_slow_one_nothing() -> None:
    for seconds, most in ((3.0, 2), (100.0, 0)):
        asked = traffic(1, 2, work={"1.1": seconds})
        routes = by_flow(seats(1, 2), 8, asked, lambda routes, asked=asked: busiest(asked, routes))
        assert sum(route[1] == Address(1, 1) for route in routes) == most


def test_where_nothing_can_be_chosen_nothing_is_tried() -> None:
    asked = traffic(3, 1)
    assert by_flow(seats(3, 1), 5, asked, _never) == in_order(seats(3, 1), 5)


def _never(routes: tuple[Route, ...]) -> float:
    raise AssertionError(routes)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 7), st.integers(0, 1 << 30))
def test_routes_are_whole_the_same_each_time_and_never_slower(
    stages: int, replicas: int, microbatches: int, seed: int
) -> None:
    rng = random.Random(seed)
    every = seats(stages, replicas)
    names = [f"{a} > {b}" for a in every for b in every]
    slow = {name: rng.choice([0.1, 1.0, 10.0]) for name in names}
    work = {str(seat): rng.choice([0.1, 1.0, 10.0]) for seat in every}
    asked = traffic(stages, replicas, slow, work)

    def seconds(routes: tuple[Route, ...]) -> float:
        return busiest(asked, routes)

    plain = in_order(every, microbatches)
    for made in (
        nearest(every, microbatches, asked),
        by_flow(every, microbatches, asked, seconds),
    ):
        assert [[seat.stage for seat in route] for route in made] == [
            [seat.stage for seat in route] for route in plain
        ]
        assert all(route[0] == route[-1] for route in made)
        check(one_f_one_b(made), made)
    assert by_flow(every, microbatches, asked, seconds) == made
    assert seconds(made) <= seconds(plain)
    share = Counter(seat for route in nearest(every, microbatches, asked) for seat in route[:-1])
    assert max(share.values()) <= math.ceil(microbatches / replicas)


def test_a_stage_without_a_seat_has_no_route() -> None:
    living = [seat for seat in seats(2, 2) if seat.stage != 1]
    for make in (nearest, lambda *how: by_flow(*how, _never)):
        with pytest.raises(ValueError, match="stage 1 has no living seat"):
            make(living, 4, traffic(2, 2))

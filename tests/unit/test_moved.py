"""Which microbatches a seat moves out of its memory, and how much stays there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkfree.core.ops import Address, Kind, Op
from checkfree.models.chunks import Chunks
from checkfree.pipeline import SCHEDULES, TWICE, ScheduleError, check, one_f_one_b, peak_stash
from checkfree.pipeline.routes import in_order, revisiting, swapped
from checkfree.pipeline.stash import (
    AHEAD,
    NOTHING,
    SLACK,
    Carrier,
    Moves,
    choose_moves,
    in_memory,
    peak_in_memory,
    waits,
    worth_moving,
)

few = settings(max_examples=40)
FORWARD, BACKWARD = 1.0, 2.0


def seconds(op: Op) -> float:
    return {Kind.FORWARD: FORWARD, Kind.BACKWARD: BACKWARD, Kind.WEIGHTS: 1.0}.get(op.kind, 0.0)


def one(hop: int) -> int:
    return 1


def seats(stages: int) -> list[Address]:
    return [Address(stage) for stage in range(stages + 1)]


def ops_of(text: str) -> list[Op]:
    return [Op.parse(f"{word}@1") for word in text.split()]


schedules = st.builds(
    lambda name, stages, microbatches, cross: SCHEDULES[name](
        revisiting(
            (swapped if cross and stages >= 4 else tuple)(in_order(seats(stages), microbatches)),
            TWICE.get(name, Chunks.WHOLE),
        )
    ),
    st.sampled_from([*SCHEDULES]),
    st.integers(1, 6),
    st.integers(1, 12),
    st.booleans(),
)
rows = st.builds(
    lambda schedule, data: data.draw(st.sampled_from([*schedule.values()])),
    schedules,
    st.data(),
)


def all_worth(ops: Sequence[Op], ahead: int = 1) -> Moves:
    return Moves(frozenset(worth_moving(ops, ahead)), ahead)


@few
@given(rows, st.floats(0.01, 100))
def test_what_is_moved_is_hidden(ops: Sequence[Op], bandwidth: float) -> None:
    moves = choose_moves(ops, seconds, one, bandwidth)
    assert moves.keys <= worth_moving(ops, moves.ahead).keys()
    busy = sum(map(seconds, ops))
    assert waits(ops, moves, seconds, lambda hop: 1 / bandwidth) <= SLACK * busy + 1e-9
    assert peak_in_memory(ops, moves, one) <= peak_in_memory(ops, NOTHING, one)


@few
@given(rows)
def test_a_line_that_takes_no_time_takes_all_and_a_slow_one_nothing(ops: Sequence[Op]) -> None:
    """All, but where it gains nothing."""
    fast, every = choose_moves(ops, seconds, one, math.inf), all_worth(ops)
    least = peak_in_memory(ops, every, one)
    assert peak_in_memory(ops, fast, one) == min(least, peak_in_memory(ops, NOTHING, one))
    assert fast in (every, NOTHING)
    assert not choose_moves(ops, seconds, one, 1e-9).keys


@few
@given(rows, st.integers(0, 12))
def test_room_is_kept_by_as_few_as_that_takes(ops: Sequence[Op], room: int) -> None:
    """If anything keeps it; whatever the line."""
    moves = choose_moves(ops, seconds, one, 1e-9, room)
    possible = min(peak_in_memory(ops, m, one) for m in (NOTHING, all_worth(ops)))
    assert peak_in_memory(ops, moves, one) <= max(room, possible)
    if peak_in_memory(ops, NOTHING, one) <= room:
        assert not moves.keys


@few
@given(rows, st.integers(1, 9))
def test_what_is_held_longest_for_its_bytes_goes_first(ops: Sequence[Op], wide: int) -> None:
    """But for a factor of two, within which they are alike."""

    def count(hop: int) -> int:
        return wide if hop > 1 else 1

    moves = choose_moves(ops, seconds, count, 1.5)
    clock = [0.0]
    for op in ops:
        clock.append(clock[-1] + seconds(op))
    worth = worth_moving(ops, moves.ahead)
    score = {key: (clock[b] - clock[f + 1]) / count(key[1]) for key, (f, b) in worth.items()}
    stay = [score[key] for key in worth if key not in moves.keys]
    assert all(2 * score[key] >= max(stay, default=0) for key in moves.keys)


@few
@given(rows, st.sampled_from(AHEAD))
def test_of_what_is_moved_few_are_in_memory(ops: Sequence[Op], ahead: int) -> None:
    """That of the op that computes, one that leaves, and those that come back beside ``ahead`` ops;
    of one op, one of both. Beside what is split, or was not worth moving."""
    moves = all_worth(ops, ahead)
    split = {op[1:] for op in ops if op.kind is Kind.WEIGHTS}
    begun: set[Any] = set()
    for op, held in zip(ops, in_memory(ops, moves, one), strict=True):
        key = op[1:]
        begun |= {key} if op.kind in (Kind.FORWARD, Kind.BACKWARD) else set()
        others = {k for k in begun - {key} if k not in moves.keys or k in split}
        assert held <= 1 + ahead + (ahead > 1) + len(others)
        if op.kind is Kind.WEIGHTS or (op.kind is Kind.BACKWARD and key not in split):
            begun.discard(key)


@few
@given(schedules)
def test_where_nothing_is_moved_it_is_the_stash(schedule: Any) -> None:
    for seat, most in peak_stash(schedule).items():
        if seat.stage:
            assert peak_in_memory(schedule[seat], NOTHING, one) == most


def test_what_comes_back_at_once_is_not_worth_it() -> None:
    assert not worth_moving(ops_of("F0 B0 F1 F2 F3 B1 B2 B3"))
    assert set(worth_moving(ops_of("F0 F1 F2 F3 B0 B1 B2 B3"))) == {(m, 1) for m in range(4)}
    assert not worth_moving(ops_of("F0 F1 F2 F3 B0 B1 B2 B3"), ahead=2)
    assert set(worth_moving(ops_of("F0 F1 F2 B1 B2 B0"))) == {(0, 1)}


def test_a_slower_line_takes_some_evenly_spread() -> None:
    """Of what is held equally long; so that each has the time that several take, and sets out for
    its backward the sooner."""
    forwards = " ".join(f"F{m}" for m in range(16))
    ops = ops_of(f"{forwards} {forwards.replace('F', 'B')}")
    assert choose_moves(ops, seconds, one, 1.0) == all_worth(ops)
    some = choose_moves(ops, seconds, one, 0.3)
    gaps = {after - before for (before, _), (after, _) in pairwise(sorted(some.keys))}
    assert 4 <= len(some.keys) < 12 and max(gaps) - min(gaps) <= 1 and some.ahead > 1
    assert peak_in_memory(ops, some, one) < 16


def test_a_carrier_is_waited_for() -> None:
    """Three seconds each way: what leaves second waits for what left first; what comes back is
    there three seconds after the op before its own began."""
    ops = ops_of("F0 F1 F2 B0 B1")
    carrier = Carrier(ops, Moves(frozenset({(0, 1), (1, 1)})), lambda hop: 3.0)
    assert carrier.end(carrier.begin(0.0) + 1) == 1
    assert carrier.end(carrier.begin(1.0) + 1) == 4, "until F0 is away"
    assert carrier.end(carrier.begin(4.0) + 1) == 5
    assert carrier.begin(5.0) == 10, "F1 leaves until 7, B0's comes until 10"


def test_a_bound_on_the_stash_counts_what_stays() -> None:
    routes = in_order(seats(6), 12)
    schedule = one_f_one_b(routes)
    assert peak_stash(schedule)[Address(1)] == 7
    with pytest.raises(ScheduleError, match="hold"):
        check(schedule, routes, stash=4)
    moved = {seat: all_worth(ops) for seat, ops in schedule.items()}
    with pytest.raises(ScheduleError, match=r"makes 0\.0 hold"):
        check(schedule, routes, stash=4, moved={s: m for s, m in moved.items() if s.stage})
    check(schedule, routes, stash=4, moved=moved)

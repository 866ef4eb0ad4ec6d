"""What goes first on a line, and how little of the background is on its way: without a clock."""

from __future__ import annotations

import heapq
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkfree.core.ops import Address, Source, Upload
from checkfree.messages.control import RESUME, Abort, Push
from checkfree.messages.tensors import KeepShadow, KeepState, StageState, StateReply
from checkfree.runtime.swarm.presence.liveness import TRIPS, FailureDetector, RoundTrip
from checkfree.runtime.swarm.transport.lanes import Lane, Piece, Pieces, lane_of
from checkfree.runtime.swarm.transport.pace import (
    BACKGROUND,
    FOREGROUND,
    LEAST,
    Claim,
    Flow,
    Window,
)

HERE = Address(1)
KEEP = Upload(HERE)
STATE = StageState({}, {}, {}, 0)


def all_of(pieces: Pieces, most: int) -> list[Piece]:
    found = []
    while (piece := pieces.take(lambda lane: most)) is not None:
        found.append(piece)
    return found


@given(
    st.lists(st.tuples(st.sampled_from(Lane), st.lists(st.binary(max_size=30), max_size=4))),
    st.integers(1, 40),
)
def test_every_byte_arrives_in_the_order_of_its_lane(
    messages: list[tuple[Lane, list[bytes]]], most: int
) -> None:
    pieces, expected = Pieces(), dict.fromkeys(Lane, b"")
    for lane, parts in messages:
        if any(parts):
            pieces.put(lane, HERE, parts)
            expected[lane] += b"".join(parts)
    assert pieces.behind == Counter({lane: len(data) for lane, data in expected.items()})
    found = all_of(pieces, most)
    assert not pieces and not any(pieces.behind.values())
    assert all(0 < piece.size <= most for piece in found)
    lanes = [piece.lane for piece in found]
    assert lanes == sorted(lanes)  # type: ignore[type-var]
    for lane in Lane:
        parts = [bytes(part) for p in found if p.lane is lane for part in p.parts]
        assert b"".join(parts) == expected[lane]


def test_what_comes_later_goes_first_between_two_pieces() -> None:
    pieces = Pieces()
    pieces.put(Lane.BACKGROUND, HERE, [b"x" * 10])
    first = pieces.take(lambda lane: 4)
    pieces.put(Lane.DATA, HERE, [b"y" * 3])
    pieces.notices.append(b"beat")
    rest = all_of(pieces, 4)
    assert [(p.lane, p.size) for p in (first, *rest) if p] == [
        *((Lane.BACKGROUND, 4), (None, 4), (Lane.DATA, 3)),
        *((Lane.BACKGROUND, 4), (Lane.BACKGROUND, 2)),
    ]


def test_what_has_begun_to_leave_is_not_behind() -> None:
    pieces = Pieces()
    for size in (10, 20):
        pieces.put(Lane.DATA, HERE, [b"x" * size])
    assert pieces.behind[Lane.DATA] == 30
    pieces.take(lambda lane: 1)
    assert pieces.behind[Lane.DATA] == 20


def test_a_lane_without_room_is_passed_by() -> None:
    pieces = Pieces()
    pieces.put(Lane.BACKGROUND, HERE, [b"x"])
    assert pieces.take(lambda lane: 0) is None
    assert pieces


@pytest.mark.parametrize(
    ("message", "lane"),
    [
        (Abort(1), Lane.CONTROL),
        (Push(0, KEEP, 0), Lane.CONTROL),
        (StateReply(0, Source(HERE, 1, 0), STATE), Lane.STATE),
        (KeepState(0, KEEP, "handover", 1, STATE), Lane.STATE),
        (KeepState(0, KEEP, RESUME, 1, STATE), Lane.BACKGROUND),
        (KeepShadow(0, KEEP, STATE), Lane.BACKGROUND),
    ],
)
def test_which_lane(message: object, lane: Lane) -> None:
    assert lane_of(message) is lane  # type: ignore[arg-type]


# --- the background ------------------------------------------------------------------------------


def sent_through(
    bandwidth: float,
    trip: float,
    seconds: float,
    busy: float = 0.0,
    claim: Claim = BACKGROUND,
) -> tuple[int, list[float], Window]:
    """Bytes that a lane gets through a line, how long its queue is, at each piece, and its pace.
    ``busy``: the share of the line that others have taken before."""
    pace, now, free, done = Window(claim), 0.0, 0.0, 0
    queues: list[float] = []
    acks: list[tuple[float, int]] = []
    left, last = bandwidth * (1 - busy), 0.0
    while now < seconds:
        while (room := pace.room) > 0:
            free = max(free, now) + room / left
            queues.append(free - now)
            pace.sent(now, room)
            heapq.heappush(acks, (free + trip, room))
        now, count = heapq.heappop(acks)
        pace.acknowledged(now, last)
        last, done = now, done + count
    return done, queues, pace


@pytest.mark.parametrize("bandwidth", [0.25e6, 6.25e6, 125e6])
@pytest.mark.parametrize("trip", [0.0005, 0.03])
def test_the_background_fills_a_line_and_no_queue(bandwidth: float, trip: float) -> None:
    done, queues, _ = sent_through(bandwidth, trip, 30.0)
    settled = sorted(queues[len(queues) // 2 :])
    assert done >= 0.7 * bandwidth * 30.0
    longest = BACKGROUND.target + 2 * LEAST / bandwidth + 0.05
    assert settled[int(0.95 * len(settled))] <= longest


@pytest.mark.parametrize("bandwidth", [0.25e6, 6.25e6, 125e6])
@pytest.mark.parametrize("trip", [0.0005, 0.03, 0.25])
def test_what_is_trained_on_has_all_of_a_line_and_no_heartbeat_waits_long_behind_it(
    bandwidth: float, trip: float
) -> None:
    done, queues, pace = sent_through(bandwidth, trip, 30.0, claim=FOREGROUND)
    settled = sorted(queues[len(queues) // 2 :])
    assert done >= (0.75 if bandwidth * trip > 1e7 else 0.9) * bandwidth * 30.0
    assert settled[int(0.95 * len(settled))] <= 0.45
    assert pace.seconds >= 0.85 * done / bandwidth


def test_a_line_that_waits_for_its_sender_is_not_taken() -> None:
    pace, now = Window(FOREGROUND), 0.0
    for _ in range(100):
        pace.sent(now, 1 << 16)
        pace.acknowledged(now + 0.05, now - 0.9)
        now += 1.0
    assert pace.seconds == pytest.approx(0.0, abs=1e-6)


def test_pieces_of_all_lanes_are_acknowledged_in_order() -> None:
    flow = Flow()
    flow.sent(0.0, Lane.CONTROL, 10)  # of another stream: nobody says that it came
    flow.sent(0.0, Lane.DATA, FOREGROUND.first)
    flow.sent(0.1, Lane.BACKGROUND, LEAST)
    assert flow.room(Lane.DATA) == flow.room(Lane.BACKGROUND) == 0
    assert flow.room(Lane.STATE) and flow.room(Lane.CONTROL)
    flow.acknowledged(0.2)
    assert flow.room(Lane.DATA)
    assert not flow.room(Lane.BACKGROUND)
    flow.acknowledged(0.3)
    flow.acknowledged(0.4)  # of nothing
    assert flow.room(Lane.BACKGROUND)


def test_it_takes_what_others_leave() -> None:
    done, _, _ = sent_through(6.25e6, 0.001, 30.0, busy=0.8)
    assert done <= 0.2 * 6.25e6 * 31.0


def test_an_answer_to_nothing_changes_nothing() -> None:
    pace = Window()
    pace.acknowledged(1.0)
    assert pace.room == LEAST


# --- the way there and back ----------------------------------------------------------------------


def test_whoever_is_far_is_granted_more_silence() -> None:
    trip = RoundTrip()
    trip.measured(0.4)
    trip.measured(0.01)
    assert TRIPS * 0.3 < trip.grants() < TRIPS * 0.4
    for _ in range(60):
        trip.measured(0.01)
    assert trip.grants() == pytest.approx(TRIPS * 0.01)
    granted = {"near": 0.0, "far": 2.0}
    detector = FailureDetector(1.0, 0.0, granted.__getitem__)
    heard = {"near": 0.0, "far": 0.0}
    silent = {tenth: detector.silent(heard, tenth / 10) for tenth in range(1, 32)}
    assert silent[11] == ["near"]
    assert silent[29] == ["near"]
    assert silent[31] == ["near", "far"]

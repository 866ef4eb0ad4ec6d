"""Who holds the others up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkfree.core.ops import Address, Op
from checkfree.messages.control import Ticket
from checkfree.runtime.swarm.presence.stall import (
    Activity,
    Baselines,
    IterationTimer,
    Watch,
    find_stall,
    render_deadlines,
)
from checkfree.runtime.swarm.transport.frames import Peer

A, B, C = Address(0), Address(1), Address(2)


def test_nobody_is_late_within_the_deadline() -> None:
    assert find_stall({A: Activity(3, "F1@0", 1.9), B: Activity(3, "F1@1", 1.9, A)}, 2.0) is None


def test_whoever_computes_for_too_long_is_to_blame_not_who_waits_for_it() -> None:
    doings = {
        A: Activity(3, "F2@0", 9.0, C),
        B: Activity(3, "B7@1", 4.0),
        C: Activity(3, "F2@2", 8.0, B),
    }
    stall = find_stall(doings, 2.0)
    assert stall is not None and stall.seat == B
    assert stall.why == (
        "has been computing the backward of microbatch 7 (stage 1, iteration 3) for 4.0 s"
    )


def test_if_all_wait_the_end_of_the_chain_is_to_blame() -> None:
    doings = {
        A: Activity(3, "B1@0", 9.0, B),
        B: Activity(3, "F1@1", 8.0, C),
        C: Activity(3, "", 7.0),
    }
    stall = find_stall(doings, 2.0)
    assert stall is not None and stall.seat == C
    assert "has not sent 1.0 what it needs for the forward of microbatch 1" in stall.why
    assert stall.waiter == B


def test_who_never_answered_can_be_to_blame() -> None:
    stall = find_stall({B: Activity(0, "R", 8.0, C)}, 2.0)
    assert stall is not None and stall.seat == C and "all-reduce" in stall.why


def test_who_does_not_do_what_it_was_told_is_to_blame() -> None:
    """As one that hangs while the lead has states stored, and all others are done."""
    stall = find_stall({A: Activity(3, "", 9.0, A), C: Activity(3, "", 1.0, C)}, 2.0)
    assert stall is not None and stall.seat == A
    assert stall.why == "has not done what it was told (stage 0, after iteration 3) for 9.0 s"
    stall = find_stall({A: Activity(4, "F1@0", 9.0, C), C: Activity(3, "", 9.0, C)}, 2.0)
    assert stall is not None and stall.seat == C


def test_idle_seats_are_never_to_blame() -> None:
    assert find_stall({A: Activity(3, "", 900.0), B: Activity(4, "", 900.0)}, 2.0) is None


seats = st.integers(0, 4).map(Address)
doings = st.builds(
    Activity,
    st.integers(0, 9),
    st.sampled_from(["", "R", "F1@1", "B2@3"]),
    st.floats(0, 9),
    st.none() | seats,
)


@given(st.dictionaries(seats, doings))
def test_a_ring_of_waiters_ends(found: dict[Address, Activity]) -> None:
    stall = find_stall(found, 2.0)
    if stall is not None:
        assert any(d.seconds > 2.0 for d in found.values())
        blamed = found.get(stall.seat)
        assert blamed is None or stall.seat in {d.waits_for for d in found.values()} | set(found)


@given(doings)
def test_json_and_back(doing: Activity) -> None:
    assert Activity.from_json(doing.to_json()) == doing


@pytest.mark.parametrize("plain", [None, [], [1, "F", 2.0, None], [1, "R", "x", None]])
def test_rubbish_is_no_doing(plain: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        Activity.from_json(plain)


def test_a_mark_tells_how_long_a_worker_has_been_at_one_thing() -> None:
    clock = [0.0]
    marks = Baselines(lambda: clock[0])
    ticket, op = Ticket(2, 7), Op.parse("F3@1")
    assert marks.doing() is None
    marks.mark((ticket, op, B))
    clock[0] = 1.0
    marks.mark((ticket, op, B))
    assert marks.doing() == Activity(7, "F3@1", 1.0, B)
    marks.mark((ticket, op, None))  # what it waited for is here: it computes
    clock[0] = 1.5
    assert marks.doing() == Activity(7, "F3@1", 0.5)
    marks.mark(None)
    assert marks.doing() is None


def test_one_message_after_the_other_is_no_standing_still() -> None:
    clock = [0.0]
    marks = Baselines(lambda: clock[0])
    state = (Ticket(2, 7), None, B)
    marks.mark(state, B)
    clock[0] = 5.0
    assert marks.doing() == Activity(7, "", 5.0, B)
    marks.mark(state, B)
    assert marks.doing() == Activity(7, "", 0.0, B)
    marks.mark((Ticket(2, 7), None, A), B)
    clock[0] = 6.0
    marks.mark((Ticket(2, 7), None, A), B)
    assert marks.doing() == Activity(7, "", 1.0, A)


def test_the_deadline_follows_the_median_iteration() -> None:
    pace = IterationTimer(1.5)
    assert pace.deadline is None
    for seconds in (30.0, 0.2, 0.1, 0.3):  # the first is no measure
        pace.measured(seconds)
    assert pace.deadline == pytest.approx(1.5 + 2.0)
    for _ in range(9):
        pace.measured(2.0)
    assert pace.deadline == pytest.approx(1.5 + 20.0)


def test_the_watch_gives_up_whoever_stalls_and_nobody_else() -> None:
    peers = [Peer(seat, 0, f"id{seat.stage}", ()) for seat in (A, B, C)]
    at = (Activity(3, "F2@0", 9.0, B), Activity(3, "F2@1", 8.0), None)
    pulses: dict[Peer, dict[str, object]] = {
        peer: {"doing": doing and doing.to_json()} for peer, doing in zip(peers, at, strict=True)
    }
    given_up: list[tuple[Peer, str, Peer | None]] = []
    watch = Watch(1.5, pulses, lambda *told: given_up.append(told))
    watch.look(peers)
    assert not given_up, "nothing was measured yet"
    for _ in range(4):
        watch.pace.measured(0.1)
    watch.look([peers[0], peers[2]])
    assert not given_up, "who is not here can't be given up"
    watch.look(peers)
    assert [(peer, waiter) for peer, _, waiter in given_up] == [(peers[1], None)]
    assert "the forward of microbatch 2" in given_up[0][1]


def test_what_holds_is_told() -> None:
    assert "1.5 s of silence (a pulse every 0.25 s)" in render_deadlines(1.5, 0.25)

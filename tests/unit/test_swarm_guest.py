"""A process between two lives at a seat, that is told to leave: not with an exact state in hand."""

from __future__ import annotations

import queue
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("hivemind", reason="hivemind is not installed")

from checkfree.messages.tensors import KeepState
from checkfree.ops import Address, StateId
from checkfree.runtime.swarm.joining.candidates import HEIR
from checkfree.runtime.swarm.joining.guest import After, Guest, Remains
from checkfree.runtime.swarm.transport.courier import Delivered, Said
from checkfree.runtime.swarm.transport.frames import Peer

LEAVE, STALE, BIRTH = {"leave": True, "ends_at": None}, {"stale": True}, {"birth": {"seat": "1.0"}}


def waits(remains: Remains, *heard: Mapping[str, Any]) -> tuple[Guest, Mapping[str, Any] | None]:
    """A guest that hears this, and what it was born to."""
    inbox: queue.SimpleQueue[Said] = queue.SimpleQueue()
    for notice in heard:
        inbox.put(Said(notice))
    courier, lifeline = SimpleNamespace(inbox=inbox), SimpleNamespace(welcome={"incarnation": 0})
    said: list[str] = []
    guest = Guest(courier, lifeline, remains, said.append, lambda told: None)  # type: ignore[arg-type]
    return guest, guest.wait()


def handed() -> Remains:
    """What an heir was sent."""
    return Remains(handed=(StateId(Address(1), 0, 3), SimpleNamespace()))  # type: ignore[arg-type]


def test_nothing_in_hand_leaves_at_once() -> None:
    guest, birth = waits(Remains(), LEAVE)
    assert (guest.after, birth) == (After.LEFT, None)


def test_a_state_in_hand_waits_for_its_seat() -> None:
    guest, birth = waits(handed(), LEAVE, BIRTH)
    assert birth == BIRTH["birth"]
    assert guest.remains and not guest.idle


@pytest.mark.parametrize("heard", [(LEAVE, STALE), (STALE, LEAVE)])
def test_a_state_that_is_of_no_use_holds_nobody(heard: tuple[Mapping[str, Any], ...]) -> None:
    guest, birth = waits(handed(), *heard)
    assert (guest.after, birth, bool(guest.remains)) == (After.LEFT, None, False)


def test_drained_is_told_from_asked() -> None:
    guest, _ = waits(Remains(), {**LEAVE, "drained": True})
    assert guest.drained


def test_what_an_heir_was_sent_has_a_name() -> None:
    """Whoever leads later has to hear of it."""
    assert handed().name() == (StateId(Address(1), 0, 3), None)
    assert Remains().name() == (None, None)


def test_only_what_is_for_this_attempt_is_taken() -> None:
    """What an owner sent to an heir of an earlier life is no state of the later one."""
    one, other = Address(1, HEIR), Address(1, 2 * HEIR)
    state = SimpleNamespace(version=3)

    def sent(to: Address) -> Delivered:
        keep = SimpleNamespace(owner=Address(1), holder=to)
        return Delivered(to, KeepState(0, keep, "handover", 1, state))  # type: ignore[arg-type]

    told: list[Mapping[str, Any]] = []
    remains, inbox = Remains(), queue.SimpleQueue[Any]()
    heir = {"heir": {"seat": "1.0", "life": 2, "at": str(other)}}
    for item in (Said(heir), sent(one), sent(other), Said({"birth": {}})):
        inbox.put(item)
    courier = SimpleNamespace(inbox=inbox, sit=lambda at, life: Peer(at, life, "me", ()))
    lifeline = SimpleNamespace(welcome={"incarnation": 0}, tell=told.append)
    guest = Guest(courier, lifeline, remains, told.append, told.append)  # type: ignore[arg-type]
    guest.wait()
    assert [said for said in told if "has" in said] == [{"has": True, "version": 3}]
    assert remains.name()[0] == StateId(Address(1), 2, 3)

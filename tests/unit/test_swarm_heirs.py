"""Processes that nodes make ready for more seats, and those that seats are handed on to."""

from __future__ import annotations

import pytest

pytest.importorskip("hivemind", reason="hivemind is not installed")

from typing import Any

from checkfree.core.ops import Address
from checkfree.messages.control import Gone, Leaving
from checkfree.runtime.swarm.joining.candidates import HEIR, MOST_HEIRS, heir_of, is_heir
from checkfree.runtime.swarm.transport.frames import FIRST_LANE, Peer, piece_frame
from checkfree.runtime.swarm.transport.network_thread import JoinRequest
from tests.peers import id_of
from tests.unit.entrance import GOOD, Entrance, node


def wanted(entrance: Entrance) -> dict[str, list[int]]:
    """Of each node what it was asked for, in turn."""
    entrance.join_server.call_for_more()
    return {
        name: [said["wanted"] for said in told if "wanted" in said]
        for name, told in entrance.told.items()
    }


def test_nodes_make_as_many_ready_as_are_lacking() -> None:
    entrance = Entrance()
    for stage in (3, 4, 5):
        entrance.join_server.candidates.order(Address(stage), 0, uninitialized=False)
    for name in ("a", "b"):
        entrance.comes(name, node(name, room=4))
        entrance.sits(name)
    assert wanted(entrance) == {"a": [3], "b": [3]}
    assert wanted(entrance) == {"a": [3], "b": [3]}  # once


def test_whoever_comes_was_asked_for() -> None:
    """Its coming asks for no more and no fewer."""
    entrance, one = Entrance(), node("a", room=6)
    entrance.comes("first", one)
    entrance.sits("first")
    before = wanted(entrance)["first"]
    for name in ("second", "third"):
        entrance.comes(name, one)
        assert wanted(entrance)["first"] == before
        entrance.sits(name)
        assert wanted(entrance)["first"] == before


def test_nodes_stand_by_for_the_loss_of_any_other_node() -> None:
    entrance = Entrance()
    big, small = node("big", room=4), node("small", room=4)
    for number in range(2):
        entrance.comes(f"big {number}", big)
        entrance.sits(f"big {number}")
    entrance.comes("small", small)
    entrance.sits("small")
    found = wanted(entrance)
    assert found["small"] == [2]
    entrance.comes("spare", small)
    found = wanted(entrance)
    assert found["small"] == [2, 3]  # one after the other
    assert sum(map(tuple, (found["big 0"], found["big 1"])), ()) == (3,)
    entrance.comes("third", node("third", room=4))
    assert wanted(entrance)["small"] == [2, 3, 2]  # it would share them with the third


def test_one_process_of_a_node_is_tried_and_the_lead_looks_for_the_others() -> None:
    entrance = Entrance()
    several = node("a", room=2)
    entrance.comes("b")
    entrance.comes("a 0", several)
    entrance.comes("a 1", several)
    assert sorted(entrance.calls) == [("a 0", "b"), ("b", "a 0")]
    assert sorted(entrance.seats()) == ["a 0", "a 1", "b"]


def test_another_heir_is_called_at_another_address() -> None:
    """What an owner sends to an heir must not go to one that has died before, at the same seat in
    the same life: the run stood still until somebody killed the owner."""
    entrance, heirs = Entrance(), sorted((id_of("first"), id_of("second")))
    for name in ("a", "b", "c", *heirs):
        entrance.comes(name)
        if name in "abc":
            seat = entrance.sits(name)
    entrance.join_server.visited(
        JoinRequest("leaving", entrance.join_server._visitors["c"], {"seat": str(seat)}), LIVES
    )
    found: list[dict[str, Any]] = []
    for name in heirs:
        (heir,) = [said["heir"] for said in entrance.told[name] if "heir" in said]
        found.append(heir)
        at = Address.parse(heir["at"])
        assert is_heir(at, seat) and not is_heir(seat)
        assert entrance.lead[-1] == Leaving(seat, 0, at, urgent=True)
        peer = Peer(at, 0, name, (GOOD,))
        visitor = entrance.join_server._visitors[name]
        entrance.join_server.visited(JoinRequest("heir", visitor, {"peer": peer.to_json()}), LIVES)
        assert entrance.told["c"][-1] == {"heir": peer.to_json()}
        if name == heirs[0]:
            entrance.join_server.visited(JoinRequest("left", visitor), LIVES)
            assert Gone(at, 0) in entrance.lead
    assert found[0]["at"] != found[1]["at"]


LIVES = dict.fromkeys(map(Address, range(3)), 0)


def test_the_last_of_all_heirs_still_has_an_address_that_a_frame_takes() -> None:
    last = heir_of(Address(7, HEIR - 1), MOST_HEIRS - 1)
    assert heir_of(Address(7), MOST_HEIRS) == heir_of(Address(7), 0)
    assert is_heir(last, Address(7, HEIR - 1))
    assert piece_frame(FIRST_LANE, last, 1)


def test_two_that_nobody_can_call_stay_neighbours_with_more_processes() -> None:
    """They were tried with each other; of further processes the lead alone tries the ports."""
    entrance = Entrance(("", "x"), ("", "y"), ("", "y 1"))
    entrance.comes("x")
    entrance.comes("y")
    entrance.comes("y 1", node("y"))
    assert entrance.apart() == set()


def test_an_heir_that_its_owner_cant_reach_has_nothing_of_use() -> None:
    entrance = Entrance()
    for name in ("a", "b", "c", "heir"):
        entrance.comes(name)
        if name in "abc":
            seat = entrance.sits(name)
    owner = entrance.join_server._visitors["c"]
    entrance.join_server.visited(JoinRequest("leaving", owner, {"seat": str(seat)}), LIVES)
    (told,) = [said["heir"] for said in entrance.told["heir"] if "heir" in said]
    entrance.join_server.unreached(Peer(Address.parse(told["at"]), 0, "heir", (GOOD,)))
    assert {"stale": True} in entrance.told["heir"]

"""Who can call whom, found out before anybody has a seat."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("hivemind", reason="hivemind is not installed")

from checkfree.core.ops import Address
from checkfree.runtime.swarm.joining.dialback import (
    Dialback,
    asked_dial,
    elsewhere,
    look,
    read_addresses,
    read_dialled,
    told_dial,
)
from checkfree.runtime.swarm.placement.nodes import Node
from checkfree.runtime.swarm.transport.addresses import Place
from checkfree.runtime.swarm.transport.network_thread import JoinRequest, Visitor
from tests.peers import id_of
from tests.unit.entrance import GOOD, Entrance, node

BAD = "/ip4/10.0.0.9/tcp/4001"


def test_one_way_is_enough_for_two_to_talk() -> None:
    dialback = Dialback("new", {"a": node("a"), "b": node("b"), "c": node("c")})
    dialback.answered("", {"new": ""})
    dialback.answered("a", {"new": "no answer", "somebody else": "no answer"})
    dialback.answered("b", {"new": "no answer"})
    dialback.answered("new", {"a": "", "b": "no route"})
    assert not dialback.over  # c has not tried, nor been tried
    dialback.left("c")
    assert dialback.over
    assert [found.id for found in dialback.apart()] == ["b"]
    assert dialback.why == "no answer"


def test_whoever_everybody_can_call_is_well() -> None:
    dialback = Dialback("new", {"a": node("a")})
    dialback.answered("", {"new": ""})
    dialback.answered("a", {"new": ""})
    dialback.answered("new", {"a": "no answer"})
    assert dialback.over
    assert (dialback.why, dialback.apart()) == ("", [])


def test_what_is_said_reads_back_and_rubbish_does_not() -> None:
    places = [Place(id_of("a"), (GOOD,)), Place(id_of("b"), (BAD, GOOD))]
    assert asked_dial(told_dial(places)["dial"]) == places
    for plain in (None, [1], [["a"]], [["a", "b"]], [[id_of("a"), [GOOD]]] * 9):
        with pytest.raises((ValueError, TypeError)):
            asked_dial(plain)
    assert read_dialled({"a": "", "b": 7, "c": "x" * 1000}) == {"a": "", "c": "x" * 200}
    assert read_dialled([]) == {}
    for plain in (
        "no list",
        [GOOD] * 17,
        ["x"],
        ["/dns4/" + "x." * 200 + "/tcp/1"],
        ["/ip4/300.0.0.1/tcp/1"],
        [1],
    ):
        with pytest.raises(ValueError):
            read_addresses(plain)


def test_an_address_of_this_machine_alone_shows_nothing() -> None:
    assert elsewhere(("/ip4/127.0.0.1/tcp/1", GOOD)) == (GOOD,)
    assert elsewhere(("/ip4/127.0.0.1/tcp/1",)) == ("/ip4/127.0.0.1/tcp/1",)
    assert elsewhere(("/dns4/localhost/tcp/1",)) == ("/dns4/localhost/tcp/1",)


def test_a_port_is_open_or_it_is_not() -> None:
    async def work() -> tuple[str, str]:
        async with await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            there = await look([f"/ip4/127.0.0.1/tcp/{port}"])
        return there, await look([f"/ip4/127.0.0.1/tcp/{port}"])

    assert asyncio.run(work()) == ("", "Connection refused")


# --- at the join server --------------------------------------------------------------------------


def test_a_seat_is_given_once_it_is_known_who_can_be_called() -> None:
    entrance = Entrance()
    told: list[Any] = []
    visitor = Visitor("slow", node("slow"), told.append, (GOOD,))
    entrance._visits(JoinRequest("ready", visitor))
    assert entrance.join_server.candidates.vacant.keys() == {Address(0), Address(1), Address(2)}
    entrance._visits(JoinRequest("looked", visitor))  # too late for whoever has not answered
    assert len(entrance.join_server.candidates.vacant) == 2
    entrance._visits(JoinRequest("left", visitor))
    entrance._visits(JoinRequest("looked", visitor, {"why": ""}))  # it is gone: of no use
    assert "slow" not in entrance.join_server._visitors


def test_two_without_a_way_between_them_are_apart_and_the_lead_s_terminal_says_so() -> None:
    entrance = Entrance(("a", "b"), ("b", "a"))
    for name in ("a", "b", "c"):
        entrance.comes(name)
    assert entrance.apart() == {"a b"}
    assert sorted(entrance.seats()) == ["a", "b", "c"]
    assert "host b and host a can't reach each other" in "\n".join(entrance.said)


def test_two_that_nobody_can_call_are_apart_unless_they_reach_each_other() -> None:
    entrance = Entrance(("", "a"), ("", "b"), ("a", "b"), ("b", "a"), ("c", "a"), ("c", "b"))
    for name in ("a", "b", "c"):
        entrance.comes(name)
    assert entrance.apart() == {"a b"}  # both of them can call c
    assert "host a can't be called at" in entrance.said[0]
    neighbours = Entrance(("", "a"), ("", "b"), ("a", "b"))  # both behind one address translation
    for name in ("a", "b"):
        neighbours.comes(name)
    assert neighbours.apart() == set()


def test_whoever_only_asks_is_told_and_gets_no_seat() -> None:
    entrance = Entrance(("", "asks"))
    told: list[Any] = []
    visitor = Visitor("asks", Node("asks", "asks"), told.append, (GOOD,))
    entrance._visits(JoinRequest("called", visitor))
    entrance._answers("", "asks", visitor, "looked")
    assert told[-1] == {"called": {"why": "no answer", "apart": [], "callers": 0}}
    assert len(entrance.join_server.candidates.vacant) == 3
    assert entrance.said == []


def test_two_that_come_at_once_are_tried_with_each_other() -> None:
    entrance = Entrance()
    told: dict[str, list[Any]] = {"a": [], "b": []}
    for name, says in told.items():
        visitor = Visitor(name, node(name), says.append, (GOOD,))
        entrance._visits(JoinRequest("ready", visitor))
    assert told["a"][-1] == told_dial([Place("b", (GOOD,))])
    assert told["b"][-1] == told_dial([Place("a", (GOOD,))])

"""Whom somebody tries who looks for the lead, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

pytest.importorskip("hivemind")

from checkfree.runtime.swarm.joining import join_client
from checkfree.runtime.swarm.joining.finder import AddressBook, Finder
from checkfree.runtime.swarm.joining.join_client import JoinClient, Unreachable
from checkfree.runtime.swarm.placement.nodes import Node
from checkfree.runtime.swarm.transport.addresses import Place

NODE = Node("n", "h", "", 1, False, False)


def place(number: int) -> Place:
    return Place(f"id{number}", (f"/ip4/10.0.0.{number}/tcp/1",))


FORMER, MEMBER, OURS, NEW = (place(number) for number in range(4))


class Net:
    """Of the places one can be cut off, and a new lead is found by asking members."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, reached: Sequence[Place]):
        self.reached, self.tried = list(reached), list[str]()
        self.endpoint = self
        self.addresses = OURS.addresses
        self.id = OURS.id

        async def look(addresses: Sequence[str]) -> str:
            there = any(set(addresses) <= {*one.addresses} for one in self.reached)
            return "" if there else "no answer"

        monkeypatch.setattr(join_client, "look", look)
        monkeypatch.setattr(join_client, "FIRST_PAUSE", 0.001)
        monkeypatch.setattr(join_client, "LONGEST_PAUSE", 0.001)

    async def renew(self, id: str) -> None:
        self.tried.append(f"renew {id}")

    async def join_once(self, places: Sequence[Place]) -> None:
        self.tried.append("ask")

    async def lead(self) -> Place:
        return NEW

    def line(self, known: Sequence[Place], leads: Callable[[Place], bool]) -> JoinClient:
        book = AddressBook(known[0])
        for one in known[1:]:
            book.put(one)
        made = JoinClient(cast(Any, self), b"", {}, Finder(cast(Any, self), book), NODE)

        async def apply(at: Place) -> Any:
            self.tried.append(at.id)
            if not leads(at):
                raise Unreachable("it is a member")
            made.finder.met(at)
            return "reader", "writer"

        cast(Any, made)._apply = apply
        return made


def taken_up(made: JoinClient, within: float = 5.0) -> None:
    asyncio.run(made.take_up(within, lambda why: None))


def test_members_are_asked_for_a_lead_that_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """And never are we ourselves, though members know us."""
    net = Net(monkeypatch, [MEMBER, OURS, NEW])
    made = net.line([FORMER, MEMBER, OURS], lambda at: at == NEW)
    taken_up(made)
    assert net.tried == ["id1", "ask", "id3"]
    assert made.finder.likeliest == [NEW]


def test_a_lead_that_listens_at_the_same_port_of_its_own_loopback_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lead = Place("lead", ("/ip4/10.0.0.9/tcp/1", *OURS.addresses))
    net = Net(monkeypatch, [lead])
    taken_up(net.line([lead], lambda at: True))
    assert net.tried == ["lead"]


def test_who_is_cut_off_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(monkeypatch, [])
    with pytest.raises(Unreachable, match="no answer"):
        taken_up(net.line([FORMER, MEMBER], lambda at: True), within=0.1)
    assert net.tried == []


@pytest.mark.parametrize("silent", [True, False])
def test_a_connection_that_fell_silent_is_renewed_once_somebody_listens(
    monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    net = Net(monkeypatch, [FORMER])
    made = net.line([FORMER], lambda at: True)
    cast(Any, made)._fell_silent = silent
    taken_up(made)
    taken_up(made)
    assert net.tried == [*["renew id0"] * silent, "id0", "id0"]

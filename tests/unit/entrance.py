"""A join server at which visitors come and answer, without a stream or a process."""

from __future__ import annotations

import queue
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("hivemind", reason="hivemind is not installed")

from checkfree.core.ops import Address
from checkfree.messages.control import Message
from checkfree.runtime.swarm.joining.join_server import JoinServer
from checkfree.runtime.swarm.placement.nodes import Node
from checkfree.runtime.swarm.transport.frames import Peer
from checkfree.runtime.swarm.transport.network_thread import JoinRequest, Visitor

GOOD = "/ip4/10.0.0.1/tcp/4001"


def node(name: str, room: int = 1) -> Node:
    return Node(name, f"host {name}", room=room)


class Entrance:
    """A join server at which visitors answer as ``unreachable`` says: pairs of caller and called,
    "" the lead."""

    def __init__(self, *unreachable: tuple[str, str]):
        self._unreachable = unreachable
        self.inbox: queue.SimpleQueue[JoinRequest] = queue.SimpleQueue()
        self.told: dict[str, list[dict[str, Any]]] = {}
        self.said: list[str] = []
        self.calls: list[tuple[str, str]] = []
        """Who was asked to call whom."""
        self.lead: list[Message] = []
        network = SimpleNamespace(inbox=self.inbox, start=lambda work: work.close())
        self.join_server = JoinServer(
            SimpleNamespace(register=Path("/nowhere/register"), invitation=None),  # type: ignore[arg-type]
            network,  # type: ignore[arg-type]
            1.0,
            lambda: (),
            self.lead.append,
            lambda state, ticket: None,
            lambda seat: None,
            self.said.append,
        )
        self.join_server._me = SimpleNamespace(to_json=list)  # type: ignore[assignment]
        for stage in range(3):
            self.join_server.candidates.order(Address(stage), 0, uninitialized=False)

    def comes(self, name: str, of: Node | None = None) -> Visitor:
        """Somebody wants a seat; all that are asked to call answer."""
        told = self.told[name] = []
        visitor = Visitor(name, of or node(name), told.append, (GOOD,))  # type: ignore[arg-type]
        self._visits(JoinRequest("ready", visitor))
        self._answers("", name, visitor, "looked")
        for other, said in self.told.items():
            for notice in said:
                for called, _ in notice.pop("dial", ()):
                    self.calls.append((other, called))
                    self._answers(other, called, self.join_server._visitors[other], "dialled")
        return visitor

    def _answers(self, caller: str, called: str, visitor: Visitor, what: str) -> None:
        why = "no answer" if (caller, called) in self._unreachable else ""
        found = {"why": why} if what == "looked" else {"dialled": {called: why}}
        self._visits(JoinRequest(what, visitor, found))

    def _visits(self, visit: JoinRequest) -> None:
        self.join_server.visited(visit, {})

    def sits(self, name: str) -> Address:
        """Somebody arrives at the seat that it was given."""
        seat = Address.parse(self.seats()[name])
        self.join_server.arrived(Peer(seat, 0, name, (GOOD,)))
        return seat

    def seats(self) -> dict[str, str]:
        """Who was told to take which."""
        return {
            name: notice["assignment"]["seat"]
            for name, told in self.told.items()
            for notice in told
            if "assignment" in notice
        }

    def apart(self) -> set[str]:
        return {" ".join(sorted(pair)) for pair in self.join_server.candidates.apart}

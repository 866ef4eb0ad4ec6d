"""A worker that has more to send than a line takes."""

from __future__ import annotations

import importlib.util
import queue
from types import SimpleNamespace
from typing import Any

import pytest

if importlib.util.find_spec("hivemind") is None:
    pytest.skip("hivemind is not installed", allow_module_level=True)

from checkfree.core.ops import LEAD, Address
from checkfree.messages.control import Abort, Message, Outgoing, Ticket
from checkfree.messages.tensors import Share
from checkfree.runtime.swarm.transport.host import Host
from checkfree.runtime.swarm.transport.lanes import MOST_BEHIND
from checkfree.runtime.swarm.transport.network_thread import Delivered, PeerEvent

ONE, TWO = Address(1), Address(2)


class Busy:
    """An actor that always has something to do; ``at_op`` is called at each."""

    def __init__(self) -> None:
        self.ops, self.heard = 0, list[Message]()

    def deliver(self, message: Message) -> None:
        self.heard.append(message)

    def advance(self) -> list[Outgoing]:
        self.ops += 1
        return []


class Inbox(queue.SimpleQueue[Any]):
    """Where, once somebody would have to wait, the next of what is to happen happens."""

    def __init__(self, *happens: Any) -> None:
        super().__init__()
        self.happens = list(happens)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if block and self.empty():
            self.happens.pop(0)()
        return super().get(block, timeout)


class Line:
    """A network of one line."""

    def __init__(self, *happens: Any) -> None:
        self.waiting = MOST_BEHIND + 1
        self.endpoint = SimpleNamespace(behind=lambda: (self.waiting, TWO))
        self.inbox = Inbox(*happens)

    def drain(self) -> None:
        self.waiting = MOST_BEHIND
        self.inbox.put(PeerEvent("drained", None))

    def say(self, message: Message) -> None:
        self.inbox.put(Delivered(ONE, message))


def hosted(line: Line, actor: Busy, at: Address = ONE) -> tuple[Host, list[Address | None]]:
    seen: list[Address | None] = []
    network: Any = line
    return Host({at: actor}, network, lambda item: None, seen.append), seen


def test_it_computes_nothing_until_there_is_room() -> None:
    line, actor = Line(), Busy()
    share = Share(Ticket(0, 0), TWO, {})
    line.inbox.happens = [lambda: line.say(share), line.drain]
    host, seen = hosted(line, actor)
    host.run(lambda: actor.ops > 0)
    assert actor.heard == [share] and actor.ops == 1  # what comes is filed, and frees no line
    assert seen == [TWO, TWO, None]
    assert not line.inbox.happens


def test_it_does_what_the_lead_says_whoever_takes_nothing_any_more() -> None:
    line, actor = Line(), Busy()
    line.inbox.happens = [lambda: line.say(Abort(1)), line.drain]
    host, _ = hosted(line, actor)
    host.run(lambda: actor.ops >= 3)
    assert actor.ops == 3 and line.waiting > MOST_BEHIND
    line.waiting += MOST_BEHIND + 1  # of another attempt
    host.run(lambda: actor.ops >= 4)
    assert line.waiting <= MOST_BEHIND


def test_a_lead_waits_for_no_line() -> None:
    actor = Busy()
    host, seen = hosted(Line(), actor, LEAD)
    host.run(lambda: actor.ops >= 3)
    assert seen == [None] * 3

"""An actor that waits for a disk holds up nobody beside it."""

from __future__ import annotations

import importlib.util
import queue
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

if importlib.util.find_spec("hivemind") is None:
    pytest.skip("hivemind is not installed", allow_module_level=True)

from checkfree.core.errors import RunFailed
from checkfree.core.ops import LEAD, STORE, Address
from checkfree.messages.control import Gone, Message, Outgoing, Stop
from checkfree.runtime.swarm.transport.host import Host
from checkfree.runtime.swarm.transport.network_thread import Item
from checkfree.runtime.swarm.transport.threaded import ThreadedActor

WITHIN = 30.0


class Disk:
    """Does one thing after the other, once it is let."""

    def __init__(self, work: Callable[[Message], None]):
        self.work, self.inbox = work, list[Message]()

    def deliver(self, message: Message) -> None:
        self.inbox.append(message)

    def advance(self) -> list[Outgoing] | None:
        if not self.inbox:
            return None
        message = self.inbox.pop(0)
        self.work(message)
        return [(LEAD, message)]


class Lead:
    """Has the store do ``orders``, and does something itself meanwhile."""

    def __init__(self, orders: list[Message], meanwhile: Callable[[], None]):
        self.orders, self.meanwhile = orders, meanwhile
        self.heard: list[Message] = []
        self.began = False

    def deliver(self, message: Message) -> None:
        self.heard.append(message)

    def advance(self) -> list[Outgoing] | None:
        if not self.began:
            self.began = True
            return [(STORE, order) for order in self.orders]
        if self.orders and not self.heard:
            self.meanwhile()
            self.orders = []
            return []
        return None


class NetworkThread:
    """What a host has of one, where nothing is to be sent."""

    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self.endpoint = SimpleNamespace(behind=lambda: (0, None))


def hosted(work: Callable[[Message], None], lead: Lead) -> tuple[Host, ThreadedActor]:
    network = NetworkThread()
    store = ThreadedActor(Disk(work), network.inbox)
    return Host({LEAD: lead, STORE: store}, cast(Any, network), lambda item: None), store


def test_others_go_on_and_what_it_says_comes_in_order() -> None:
    goes_on = threading.Event()
    orders: list[Message] = [Gone(Address(stage), 0) for stage in range(5)]
    lead = Lead(orders, goes_on.set)

    def work(message: Message) -> None:
        assert goes_on.wait(WITHIN), "it waits for the disk"

    host, store = hosted(work, lead)
    host.run(lambda: len(lead.heard) == len(orders))
    assert lead.heard == orders
    store.close()


def test_what_was_told_is_done_before_it_is_closed() -> None:
    done: list[Message] = []
    _, store = hosted(done.append, Lead([], lambda: None))
    for _ in range(100):
        store.deliver(Stop())
    store.close()
    assert len(done) == 100


def test_its_error_is_the_host_s_until_all_is_over() -> None:
    def full(message: Message) -> None:
        raise RunFailed("the disk is full")

    host, _ = hosted(full, Lead([Stop()], lambda: None))
    with pytest.raises(RunFailed, match="full"):
        host.run(lambda: False)
    host, store = hosted(full, Lead([], lambda: None))
    host.actors.clear()
    store.deliver(Stop())
    store.close()
    over = iter((False, True))
    host.run(lambda: next(over))

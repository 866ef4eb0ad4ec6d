"""Host actors in one process: their messages come from a network thread, and from one another.

The main thread computes, one op at a time; between two ops it files what has arrived, so that an
Abort or a newer ticket is heeded at once and an early activation is at hand when it is needed. An
op's output leaves while the next is computed; when more than ``MOST_BEHIND`` waits for one line, a
worker waits too.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Mapping

from checkfree.core.ops import Address
from checkfree.messages.control import Message, Outgoing
from checkfree.runtime.actor import Actor, Traffic
from checkfree.runtime.swarm.transport.lanes import MOST_BEHIND, Lane, lane_of
from checkfree.runtime.swarm.transport.network_thread import (
    Answered,
    Delivered,
    Item,
    NetworkThread,
)


class Host:
    """``handle`` gets whatever comes in that is no message for an actor; ``watch`` is called
    before every op, and before waiting for a message, with the seat that no more can be sent to
    for now; ``sent`` is told what goes to others."""

    def __init__(
        self,
        actors: Mapping[Address, Actor],
        network: NetworkThread,
        handle: Callable[[Item], None],
        watch: Callable[[Address | None], None] = lambda full: None,
        sent: Callable[[Address, Message], None] = lambda to, message: None,
    ):
        self.actors = dict(actors)
        self.traffic = Traffic()
        self.busy = 0.0
        """Seconds for which the actors here have computed."""
        self._network, self._handle, self._watch = network, handle, watch
        self._told_of = sent
        self._pending: deque[Outgoing] = deque()
        self._most = MOST_BEHIND

    def run(self, until: Callable[[], bool]) -> None:
        """Until ``until`` holds, which can only come of something that is delivered or handled,
        and nothing is left that the actors here have to say to one another."""
        while self._pending or not until():
            self._file(block=not self._advance())

    def post(self, to: Address, message: Message) -> None:
        """Send from outside."""
        self._pending.append((to, message))

    def _advance(self) -> bool:
        """One op of each actor, and what they say to one another. False: nothing moved."""
        moved = bool(self._pending)
        while self._pending:
            to, message = self._pending.popleft()
            if to in self.actors:
                self.actors[to].deliver(message)
        for address, actor in self.actors.items():
            full = self._full() if address.stage >= 0 else None  # a lead waits for nobody
            self._watch(full)
            if full is not None:
                continue
            began = time.perf_counter()
            out = actor.advance()
            if out is not None:
                self.busy += time.perf_counter() - began
            for to, message in out or ():
                self._send(to, message)
            moved = moved or out is not None
        return moved

    def _full(self) -> Address | None:
        """Whom no more can be sent to for now."""
        behind, seat = self._network.endpoint.behind()
        if behind <= MOST_BEHIND:
            self._most = MOST_BEHIND
        return seat if behind > self._most else None

    def _send(self, to: Address, message: Message) -> None:
        self.traffic.count(message)
        if to in self.actors:
            self._pending.append((to, message))
        else:
            self._network.send(to, message)
            self._told_of(to, message)

    def _file(self, *, block: bool) -> None:
        """All that has arrived; wait for the first of it if there is nothing else to do."""
        inbox = self._network.inbox
        try:
            while True:
                item = inbox.get(block=block)
                block = False
                if isinstance(item, Answered):
                    self._answered(item)
                elif not isinstance(item, Delivered):
                    self._handle(item)
                elif item.to in self.actors:
                    self.actors[item.to].deliver(item.message)
                    if lane_of(item.message) is Lane.CONTROL:
                        # Whoever takes nothing may be lost, and we be told to go on without it.
                        self._most = MOST_BEHIND + self._network.endpoint.behind()[0]
        except queue.Empty:
            return

    def _answered(self, item: Answered) -> None:
        """Raises what its actor ended with, unless nobody is left here to whom it matters."""
        if not self.actors:
            return
        if item.error is not None:
            raise item.error
        for to, message in item.out:
            self._send(to, message)

"""An actor in a thread of its own: one that waits for a disk, while those beside it go on."""

from __future__ import annotations

import queue
import threading

from checkfree.messages.control import Message, Outgoing
from checkfree.runtime.actor import Actor
from checkfree.runtime.swarm.transport.network_thread import Answered, Item

END_WITHIN = 30.0
"""Seconds that it gets to finish what it was told: a slow disk writes a large state in them."""


class ThreadedActor:
    """To its host an actor that never has anything to say: what ``actor`` says is put into
    ``inbox``, and so is the error that it ends with."""

    def __init__(self, actor: Actor, inbox: queue.SimpleQueue[Item]):
        self._actor, self._inbox = actor, inbox
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="threaded actor", daemon=True)
        self._thread.start()

    def deliver(self, message: Message) -> None:
        self._messages.put(message)

    def advance(self) -> list[Outgoing] | None:
        return None

    def close(self) -> None:
        """Returns when all that was delivered is done, or takes too long."""
        self._messages.put(None)
        self._thread.join(END_WITHIN)

    def _run(self) -> None:
        try:
            while (message := self._messages.get()) is not None:
                self._actor.deliver(message)
                while (out := self._actor.advance()) is not None:
                    self._inbox.put(Answered(out))
        except Exception as error:
            self._inbox.put(Answered((), error))

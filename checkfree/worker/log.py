"""What a seat has sent, kept until no replay can need it: activations and gradients of committed
iterations, as they left it. In the host's memory, if no runtime has another place for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from checkfree.core.ops import Address
from checkfree.messages.control import Ticket
from checkfree.messages.tensors import Activation, Gradient, tensor_bytes

Sent = tuple[Address, Activation | Gradient]
"""To whom, and what. Shared with whoever received it in the same process: never written to."""


class Log(Protocol):
    """By iteration; each is whole or not there."""

    def add(self, iteration: int, sent: Sequence[Sent]) -> None:
        """It is committed; what there was of it is replaced."""

    def extend(self, iteration: int, sent: Sequence[Sent]) -> None:
        """More of an iteration that is here; nothing, if it is not."""

    def trim(self, since: int | None) -> None:
        """Nothing older is needed; None: nothing at all."""

    def cut(self, until: int) -> None:
        """The run goes back: what is newer is of another course."""

    def whole_since(self, version: int) -> int:
        """The version from which on all is here that was sent up to ``version``."""

    def of(self, iteration: int, stage: int | None = None) -> tuple[Sent, ...]:
        """What was sent then, to one stage or all; nothing, if that is not here. Raises LogLost."""

    @property
    def bytes(self) -> int:
        """Of all tensors."""


class LogLost(Exception):
    """Nothing older than version ``since`` can be read: the log begins anew."""

    def __init__(self, since: int):
        super().__init__(f"what was sent before version {since} can't be read")
        self.since = since


class SentLog:
    """A log in the host's memory."""

    def __init__(self) -> None:
        self._sent: dict[int, tuple[Sent, ...]] = {}

    def add(self, iteration: int, sent: Sequence[Sent]) -> None:
        self._sent[iteration] = tuple((to, in_host_memory(message)) for to, message in sent)

    def extend(self, iteration: int, sent: Sequence[Sent]) -> None:
        if iteration in self._sent:
            self.add(iteration, (*self._sent[iteration], *sent))

    def trim(self, since: int | None) -> None:
        kept = self._sent.items() if since is not None else ()
        self._sent = {i: sent for i, sent in kept if since is not None and i >= since}

    def cut(self, until: int) -> None:
        self._sent = {i: sent for i, sent in self._sent.items() if i < until}

    def whole_since(self, version: int) -> int:
        since = version
        while since - 1 in self._sent:
            since -= 1
        return since

    def of(self, iteration: int, stage: int | None = None) -> tuple[Sent, ...]:
        sent = self._sent.get(iteration, ())
        return tuple(one for one in sent if stage is None or one[0].stage == stage)

    @property
    def bytes(self) -> int:
        return sum(bytes_of(sent) for sent in self._sent.values())


def in_host_memory(message: Activation | Gradient) -> Activation | Gradient:
    """The same, on the CPU: what is there already is not copied."""
    if message.tensor.is_cpu:
        return message
    scales = None if message.scales is None else message.scales.cpu()
    return replace(message, tensor=message.tensor.cpu(), scales=scales)


def bytes_of(sent: Sequence[Sent]) -> int:
    """Of the tensors of what was sent."""
    return sum(tensor_bytes(message) for _, message in sent)


def again(
    sent: Sequence[Sent], to: Address, ticket: Ticket
) -> list[tuple[Address, Activation | Gradient]]:
    """What of it went to a stage, for the seat that stands there now."""
    return [(to, replace(what, ticket=ticket)) for seat, what in sent if seat.stage == to.stage]

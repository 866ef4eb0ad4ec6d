"""What a worker knows of the ticket that it works on: its plan, and what has arrived for it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from checkfree.core.ops import Address, Kind, Mirror, Op, Route
from checkfree.messages.control import Begin, Purpose, Ticket
from checkfree.messages.tensors import Activation, Gradient, KeepGradient, Share
from checkfree.pipeline.routes import visits
from checkfree.pipeline.stash import Moves
from checkfree.recovery.fit.activations import BufferLimits, Ring
from checkfree.recovery.fit.boundary import Crossed
from checkfree.stage import Key, Part, body_part
from checkfree.worker.feedback import Feedback
from checkfree.worker.log import Sent

Data = Activation | Gradient | Share | KeepGradient
"""Messages that belong to one ticket."""


@dataclass
class Attempt:
    """Filled by messages, emptied by ops."""

    plan: Begin
    address: Address
    todo: deque[Op] = field(default_factory=deque)
    activations: dict[Key, Activation] = field(default_factory=dict)
    gradients: dict[Key, Gradient] = field(default_factory=dict)
    shares: dict[Address, Share] = field(default_factory=dict)
    kept: dict[Mirror, KeepGradient] = field(default_factory=dict)
    losses: dict[int, Tensor] = field(default_factory=dict)
    batches: dict[int, Any] = field(default_factory=dict)
    doubled: dict[Key, Activation] = field(default_factory=dict)
    forwards: int = 0
    redundant_forwards: int = 0
    crossed: Crossed = field(default_factory=lambda: Ring(BufferLimits()))
    sent: list[Sent] = field(default_factory=list)
    """What has left for other stages, if that is kept."""
    feedback: Feedback = field(default_factory=Feedback)
    """What rounding has taken of the gradients that have left."""
    moves: Moves | None = None
    """What its stage moves out of memory meanwhile; None: that is not chosen yet."""
    shared: bool = False
    pushed: bool = False
    prepared: bool = False

    def __post_init__(self) -> None:
        self.todo = deque(self.plan.schedule.get(self.address, ()))
        self.own = frozenset(self.todo)
        seats = self.plan.schedule
        self.twins = [seat for seat in seats if seat.stage == self.address.stage]
        self.held = [mirror for mirror in self.plan.mirrors if mirror.holder == self.address]
        self.copied = [mirror for mirror in self.plan.mirrors if mirror.owner == self.address]

    @property
    def ticket(self) -> Ticket:
        return self.plan.ticket

    @property
    def training(self) -> bool:
        """Gradients are computed: not in a validation."""
        return self.plan.ticket.purpose is not Purpose.VALIDATE

    def route(self, op: Op) -> Route:
        return self.plan.routes[op.microbatch]

    def part(self, op: Op) -> Part:
        """Which share of its stage an op's hop runs."""
        route = self.route(op)
        if op.hop == 0:
            return Part.EMBED
        if op.hop == len(route) - 1:
            return Part.HEAD
        chunks = visits(route)
        return body_part(op.hop, (len(route) - 2) // chunks, chunks)

    def expects(self, message: Data) -> bool:
        """One of the plan's ops, or its end, needs it."""
        match message:
            case Activation():
                op = Op(Kind.FORWARD, message.microbatch, message.hop)
                return op in self.own and self._sender(op) != self.address
            case Gradient():
                op = Op(Kind.BACKWARD, message.microbatch, message.hop)
                return op in self.own and self._sender(op) != self.address
            case Share():
                return message.sender in self.twins
            case KeepGradient():
                return message.keep in self.held

    def file(self, message: Data) -> None:
        """Put a message where the op that needs it looks."""
        match message:
            case Activation():
                self.activations[message.microbatch, message.hop] = message
            case Gradient():
                self.gradients[message.microbatch, message.hop] = message
            case Share():
                self.shares[message.sender] = message
            case KeepGradient():
                self.kept[message.keep] = message

    def ready(self, op: Op) -> bool:
        """All that the op reads is here."""
        key = (op.microbatch, op.hop)
        match op.kind:
            case Kind.REDUCE:
                return len(self.shares) == len(self.twins)
            case Kind.FORWARD:
                return op.hop == 0 or key in self.activations
            case Kind.BACKWARD:
                return self.part(op) is Part.HEAD or key in self.gradients
            case Kind.WEIGHTS:
                return True
            case Kind.REDUNDANT:
                return key in self.doubled

    def lacks(self) -> Address | None:
        """Who is to send what comes next here; None: nobody but the lead."""
        if self.todo:
            op = self.todo[0]
            return None if self.ready(op) else self._sender(op)
        return next((keep.owner for keep in self.held if keep not in self.kept), None)

    def _sender(self, op: Op) -> Address | None:
        match op.kind:
            case Kind.FORWARD:
                return self.route(op)[op.hop - 1] if op.hop else None
            case Kind.BACKWARD:
                return next(iter(self.route(op)[op.hop + 1 : op.hop + 2]), None)
            case _:
                others = (twin for twin in self.twins if twin != self.address)
                return next((twin for twin in others if twin not in self.shares), None)

    def keeps_here(self) -> bool:
        """Every gradient for a copy that this worker holds has arrived."""
        return all(keep in self.kept for keep in self.held)

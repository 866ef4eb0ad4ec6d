"""A stage worker that does no I/O: messages in, messages out.

Every runtime hosts this same class. ``deliver`` files a message and never computes; ``advance``
does at most one thing whose inputs are here, and returns what is to be sent. It never blocks,
sleeps, reads a clock or knows how its messages travel, so any delivery order gives the same
numbers.

Rules: a hollow worker (no state worth training) begins nothing. It steps only on Commit, and
sends its state only between iterations. What is older than its ticket or epoch is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

import torch

from checkfree.messages.control import (
    Abort,
    Begin,
    Commit,
    Kept,
    Message,
    Outgoing,
    Push,
    Rebuild,
    Rebuilt,
    StateRequest,
    Stepped,
    Ticket,
)
from checkfree.messages.tensors import (
    Activation,
    Gradient,
    KeepGradient,
    KeepState,
    Share,
    StageState,
    StateReply,
    tensor_bytes,
)
from checkfree.ops import LEAD, Address, Kind, Source
from checkfree.stage import Stage
from checkfree.worker.attempt import Attempt, Data
from checkfree.worker.compute import Compute
from checkfree.worker.equipment import Equipment


class StageWorker:
    """One seat: its stage, and the exact copies that it holds for others."""

    def __init__(self, address: Address, life: int, equipment: Equipment, *, hollow: bool = False):
        self.address, self.life = address, life
        self._compute = Compute(address, equipment)
        self._equipment = equipment
        self._hollow = hollow
        self._attempt: Attempt | None = None
        self._latest = Ticket(-1, -1)
        self._epoch = -1
        self._inbox: deque[Message] = deque()
        self._early: list[Data] = []
        self._rebuild: Rebuild | None = None
        self._states: dict[Source, StateReply] = {}

    @property
    def stage(self) -> Stage:
        return self._compute.stage

    @property
    def copies(self) -> dict[int, Stage]:
        return self._compute.copies

    def destroy(self) -> None:
        """Overwrite with NaN all that dies with this seat, the copies that it held included."""
        self._attempt = None
        for stage in self._compute.all():
            stage.destroy()

    # --- messages in -----------------------------------------------------------------------------

    def deliver(self, message: Message) -> None:
        match message:
            case Activation() | Gradient() | Share() | KeepGradient():
                self._file(message)
            case _:
                self._inbox.append(message)

    def _file(self, message: Data) -> None:
        if self._attempt is not None and message.ticket == self._attempt.ticket:
            self._attempt.file(message)
        elif message.ticket > self._latest:
            self._early.append(message)

    # --- messages out ----------------------------------------------------------------------------

    def advance(self) -> list[Outgoing] | None:
        """Do one thing. Returns what to send, or None when only a message can help.

        One op, not all that are ready: the first activation leaves before the second starts.
        """
        if self._inbox:
            return self._handle(self._inbox.popleft())
        if self._attempt is not None and not self._attempt.prepared:
            return self._advance_attempt(self._attempt)
        order = self._rebuild
        if order is not None and len(self._states) == len(order.recipe.sources):
            answer = self._rebuilt(order)
            self._rebuild, self._states = None, {}
            return [(LEAD, answer)]
        return None

    def _advance_attempt(self, attempt: Attempt) -> list[Outgoing] | None:
        if attempt.todo:
            if attempt.ready(attempt.todo[0]):
                return self._compute.run(attempt, attempt.todo.popleft())
            if attempt.todo[0].kind is Kind.REDUCE and not attempt.shared:
                return self._compute.share(attempt)
        elif not attempt.pushed:
            return self._compute.keep_gradients(attempt)
        elif attempt.keeps_here():
            return self._compute.prepared(attempt)
        return None

    def _handle(self, message: Message) -> list[Outgoing]:
        match message:
            case Begin() if self._may_begin(message):
                self._begin(message)
            case Commit() if self._attempt and message.ticket == self._attempt.ticket:
                self._compute.commit(self._attempt, message)
                self._attempt = None
                return [(LEAD, Stepped(message.ticket, self.address))]
            case Abort() if self._attempt and message.epoch > self._attempt.ticket.epoch:
                self._leave()
            case Push() if message.epoch >= self._epoch and not self._hollow:
                return [(message.keep.holder, self._pushed(message))]
            case KeepState() if message.epoch >= self._epoch:
                return [(LEAD, self._kept(message))]
            case StateRequest():
                return self._reply(message)
            case Rebuild() if message.life == self.life and message.epoch >= self._epoch:
                return self._order(message)
            case StateReply() if self._rebuild and message.epoch == self._rebuild.epoch:
                self._states[message.source] = message
            case _:
                pass  # of a ticket, epoch or life that is over
        return []

    def _may_begin(self, plan: Begin) -> bool:
        newer = plan.ticket > self._latest and plan.ticket.epoch >= self._epoch
        return newer and not self._hollow

    def _begin(self, plan: Begin) -> None:
        self._leave()
        self._latest, self._epoch = plan.ticket, plan.ticket.epoch
        self._attempt = Attempt(plan, self.address)
        early, self._early = self._early, []
        for message in early:
            self._file(message)

    def _leave(self) -> None:
        self._attempt = None
        for stage in self._compute.all():
            stage.discard()

    # --- states ----------------------------------------------------------------------------------

    def _pushed(self, order: Push) -> KeepState:
        state = self.stage.snapshot()
        assert state.version == order.version, f"{self.address} is at {state.version}"
        return KeepState(order.epoch, order.keep, order.area, order.shelf, state)

    def _kept(self, message: KeepState) -> Kept:
        self._epoch = message.epoch
        self._compute.copy_of(message.keep.owner.stage).restore(message.state)
        return Kept(message.epoch, message.keep, message.state.version)

    def _reply(self, request: StateRequest) -> list[Outgoing]:
        """Silence for what is not held: it was asked of an earlier life of this seat, and the
        lead, when it hears of that loss, plans again."""
        source = request.source
        own = source.of == self.address.stage and not self._hollow
        held = self.stage if own else self.copies.get(source.of)
        if held is None or held.version != source.version:
            return []
        state = held.snapshot(moments=request.moments)
        return [(request.reply_to, StateReply(request.epoch, source, state))]

    def _order(self, order: Rebuild) -> list[Outgoing]:
        self._leave()
        self._epoch, self._hollow = order.epoch, True
        self._rebuild, self._states = order, {}
        return [
            (source.holder, StateRequest(order.epoch, self.address, source, order.recipe.moments))
            for source in order.recipe.sources
        ]

    def _rebuilt(self, order: Rebuild) -> Rebuilt:
        answer = Rebuilt(order.epoch, self.life, self.address)
        replies = [self._states[source] for source in order.recipe.sources]
        states = {reply.source: reply.state for reply in replies if reply.state is not None}
        missing = [reply for reply in replies if reply.state is None]
        if missing:
            bad = tuple(reply.source for reply in missing)
            return replace(answer, problem=missing[0].problem, bad=bad)
        made = self._equipment.strategy.rebuild(self.address, self._fresh(order), states)
        state = replace(made.state, version=order.resume_at)
        if not _finite(state):
            problem = "the rebuilt weights are not finite"
            return replace(answer, problem=problem, bad=tuple(states))
        self.stage.restore(state)
        self._hollow = False
        moved = sum(tensor_bytes(reply) for reply in replies)
        return replace(answer, weights=made.weights, bytes=moved)

    def _fresh(self, order: Rebuild) -> Callable[[], StageState]:
        return lambda: self._equipment.fresh(self.address.stage, order.tick)


def _finite(state: StageState) -> bool:
    """One NaN or inf anywhere in the weights would end the run later, and point at nobody."""
    return all(bool(torch.isfinite(param).all()) for param in state.params.values())

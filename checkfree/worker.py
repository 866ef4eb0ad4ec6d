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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from checkfree.messages.control import (
    Abort,
    Begin,
    Commit,
    Kept,
    Message,
    Outgoing,
    Prepared,
    Purpose,
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
from checkfree.ops import LEAD, Address, Keep, Kind, Op, Source
from checkfree.recovery.strategy import Strategy
from checkfree.stage import Key, Part, Stage
from checkfree.units import derive

Batches = Callable[[int, int], Any]
"""(iteration, microbatch) -> a batch. Pure, so a retried iteration sees the same data."""


@dataclass(frozen=True)
class Equipment:
    """What every worker of a run is built with."""

    seed: int
    make: Callable[[int], Stage]
    """A stage with its first weights, from (seed, "init", stage)."""
    fresh: Callable[[int, int], StageState]
    """(stage, tick): a stage's state initialised anew."""
    strategy: Strategy
    batches: Mapping[Purpose, Batches]


@dataclass
class _Attempt:
    """What a worker knows of the ticket that it works on."""

    plan: Begin
    todo: deque[Op]
    activations: dict[Key, Tensor]
    gradients: dict[Key, Tensor]
    shares: dict[Address, Share]
    kept: dict[Keep, KeepGradient]
    losses: dict[int, Tensor]
    batches: dict[int, Any]
    shadowed: dict[Key, Tensor]
    forwards: int = 0
    shadow_forwards: int = 0
    shared: bool = False
    pushed: bool = False
    prepared: bool = False

    @classmethod
    def of(cls, plan: Begin, address: Address) -> _Attempt:
        return cls(plan, deque(plan.schedule.get(address, ())), {}, {}, {}, {}, {}, {}, {})


class StageWorker:
    """One seat: its stage, and the exact copies that it holds for others."""

    def __init__(self, address: Address, life: int, equipment: Equipment, *, hollow: bool = False):
        self.address, self.life = address, life
        self.stage = equipment.make(address.stage)
        self.copies: dict[int, Stage] = {}
        self._equipment = equipment
        self._hollow = hollow
        self._attempt: _Attempt | None = None
        self._latest = Ticket(-1, -1)
        self._epoch = -1
        self._inbox: deque[Message] = deque()
        self._early: list[Activation | Gradient | Share | KeepGradient] = []
        self._rebuild: Rebuild | None = None
        self._states: dict[Source, StateReply] = {}
        self._out: list[Outgoing] = []

    def destroy(self) -> None:
        """Overwrite with NaN all that dies with this seat, the copies that it held included."""
        self._attempt = None
        for stage in (self.stage, *self.copies.values()):
            stage.destroy()

    # --- messages in -----------------------------------------------------------------------------

    def deliver(self, message: Message) -> None:
        match message:
            case Activation() | Gradient() | Share() | KeepGradient():
                self._file(message)
            case _:
                self._inbox.append(message)

    def _file(self, message: Activation | Gradient | Share | KeepGradient) -> None:
        attempt = self._attempt
        if attempt is None or message.ticket != attempt.plan.ticket:
            if message.ticket > self._latest:
                self._early.append(message)
            return
        match message:
            case Activation():
                attempt.activations[message.microbatch, message.hop] = message.tensor
            case Gradient():
                attempt.gradients[message.microbatch, message.hop] = message.tensor
            case Share():
                attempt.shares[message.sender] = message
            case KeepGradient():
                attempt.kept[message.keep] = message

    # --- messages out ----------------------------------------------------------------------------

    def advance(self) -> list[Outgoing] | None:
        """Do one thing. Returns what to send, or None when only a message can help.

        One op, not all that are ready: the first activation leaves before the second starts.
        """
        if self._inbox:
            self._handle(self._inbox.popleft())
        elif not (self._advance_attempt() or self._advance_rebuild()):
            return None
        out, self._out = self._out, []
        return out

    def _handle(self, message: Message) -> None:
        match message:
            case Begin() if message.ticket > self._latest and not self._hollow:
                self._begin(message)
            case Commit() if self._attempt and message.ticket == self._attempt.plan.ticket:
                self._commit(self._attempt, message)
            case Abort() if self._attempt and message.epoch > self._attempt.plan.ticket.epoch:
                self._leave()
            case Push() if message.epoch >= self._epoch and not self._hollow:
                self._push(message)
            case KeepState() if message.epoch >= self._epoch:
                self._keep(message)
            case StateRequest():
                self._send(message.reply_to, self._reply(message))
            case Rebuild() if message.life == self.life and message.epoch >= self._epoch:
                self._order(message)
            case StateReply() if self._rebuild and message.epoch == self._rebuild.epoch:
                self._states[message.source] = message
            case _:
                pass  # of a ticket, epoch or life that is over

    # --- one attempt -----------------------------------------------------------------------------

    def _begin(self, plan: Begin) -> None:
        self._leave()
        self._latest, self._epoch = plan.ticket, plan.ticket.epoch
        self._attempt = _Attempt.of(plan, self.address)
        early, self._early = self._early, []
        for message in early:
            self._file(message)

    def _leave(self) -> None:
        self._attempt = None
        for stage in (self.stage, *self.copies.values()):
            stage.discard()

    def _advance_attempt(self) -> bool:
        attempt = self._attempt
        if attempt is None or attempt.prepared:
            return False
        if attempt.todo:
            if not self._ready(attempt, attempt.todo[0]):
                return self._share(attempt)
            self._run(attempt, attempt.todo.popleft())
            return True
        if not attempt.pushed:
            self._send_keeps(attempt)
            return True
        if all(keep in attempt.kept for keep in self._held(attempt)):
            self._prepare(attempt)
            return True
        return False

    def _ready(self, attempt: _Attempt, op: Op) -> bool:
        key = (op.microbatch, op.hop)
        match op.kind:
            case Kind.REDUCE:
                return len(attempt.shares) == len(self._twins(attempt))
            case Kind.FORWARD:
                return op.hop == 0 or key in attempt.activations
            case Kind.BACKWARD:
                last = len(attempt.plan.routes[op.microbatch]) - 1
                return op.hop == last or key in attempt.gradients
            case Kind.SHADOW:
                return key in attempt.shadowed

    def _run(self, attempt: _Attempt, op: Op) -> None:
        match op.kind:
            case Kind.FORWARD:
                self._forward(attempt, op)
            case Kind.BACKWARD:
                self._backward(attempt, op)
            case Kind.SHADOW:
                self._shadow(attempt, op)
            case Kind.REDUCE:
                self._reduce(attempt)

    def _forward(self, attempt: _Attempt, op: Op) -> None:
        key, route = (op.microbatch, op.hop), attempt.plan.routes[op.microbatch]
        part, batch, seed = self._inputs(attempt, op)
        x = attempt.activations.pop(key, None)
        if attempt.plan.ticket.purpose is Purpose.VALIDATE:
            y = self.stage.evaluate(part, x, batch, seed)
        else:
            y = self.stage.forward(key, part, x, batch, seed)
            attempt.forwards += 1
        if part is Part.HEAD:
            attempt.losses[op.microbatch] = y
            return
        if attempt.todo and attempt.todo[0] == Op(Kind.SHADOW, op.microbatch, op.hop + 1):
            attempt.shadowed[op.microbatch, op.hop + 1] = y
        following = route[op.hop + 1]
        self._send(following, Activation(attempt.plan.ticket, op.microbatch, op.hop + 1, y))

    def _backward(self, attempt: _Attempt, op: Op) -> None:
        key, route = (op.microbatch, op.hop), attempt.plan.routes[op.microbatch]
        dx = self.stage.backward(
            key, attempt.gradients.pop(key, None), 1 / len(attempt.plan.routes)
        )
        if op.hop > 0:
            assert dx is not None
            gradient = Gradient(attempt.plan.ticket, op.microbatch, op.hop - 1, dx)
            self._send(route[op.hop - 1], gradient)

    def _shadow(self, attempt: _Attempt, op: Op) -> None:
        part, batch, seed = self._inputs(attempt, op)
        x = attempt.shadowed.pop((op.microbatch, op.hop))
        copy = self.copies[attempt.plan.routes[op.microbatch][op.hop].stage]
        copy.shadow(part, x, batch, seed)
        attempt.shadow_forwards += 1

    def _inputs(self, attempt: _Attempt, op: Op) -> tuple[Part, Any, int]:
        """Which part a hop runs, on what data, under which seed (semantics 18)."""
        ticket, last = attempt.plan.ticket, len(attempt.plan.routes[op.microbatch]) - 1
        part = Part.EMBED if op.hop == 0 else Part.HEAD if op.hop == last else Part.BODY
        batch = None
        if part is Part.HEAD:
            batch = attempt.batches.pop(op.microbatch, None)
        if part is not Part.BODY and batch is None:
            batch = self._equipment.batches[ticket.purpose](ticket.iteration, op.microbatch)
        if part is Part.EMBED:
            attempt.batches[op.microbatch] = batch  # the head of the same seat reads it again
        return (
            part,
            batch,
            derive(self._equipment.seed, "forward", ticket.iteration, op.microbatch, op.hop),
        )

    # --- the end of an attempt -------------------------------------------------------------------

    def _share(self, attempt: _Attempt) -> bool:
        if attempt.shared or attempt.todo[0].kind is not Kind.REDUCE:
            return False
        attempt.shared = True
        share = Share(attempt.plan.ticket, self.address, self.stage.gradients())
        for twin in self._twins(attempt):
            if twin == self.address:
                self._file(share)
            else:
                self._send(twin, share)
        return True

    def _reduce(self, attempt: _Attempt) -> None:
        """Sum in address order: float addition doesn't commute, and delivery must not show."""
        if len(attempt.shares) > 1:
            total: dict[str, Tensor] = {}
            for address in sorted(attempt.shares):
                for name, gradient in attempt.shares[address].tensors.items():
                    own = gradient.to(next(iter(total.values())).device) if total else gradient
                    total[name] = total[name] + own if name in total else own.clone()
            self.stage.set_gradients(total)

    def _send_keeps(self, attempt: _Attempt) -> None:
        attempt.pushed = True
        if attempt.plan.ticket.purpose is Purpose.VALIDATE:
            return
        self.stage.reduced()
        for keep in attempt.plan.keeps:
            if keep.owner == self.address:
                own = {name: g.clone() for name, g in self.stage.gradients().items()}
                self._send(keep.holder, KeepGradient(attempt.plan.ticket, keep, own))

    def _prepare(self, attempt: _Attempt) -> None:
        attempt.prepared = True
        losses = tuple(sorted(attempt.losses))
        values = torch.stack([attempt.losses[m] for m in losses]).tolist() if losses else []
        self._send(
            LEAD,
            Prepared(
                attempt.plan.ticket,
                self.address,
                tuple(zip(losses, values, strict=True)),
                self.stage.reduced_norm,
                attempt.forwards,
                attempt.shadow_forwards,
            ),
        )

    def _commit(self, attempt: _Attempt, order: Commit) -> None:
        iteration = order.ticket.iteration
        self.stage.step(iteration, order.clip[self.address.stage])
        for keep in self._held(attempt):
            copy = self.copies[keep.owner.stage]
            copy.set_gradients(attempt.kept[keep].tensors)
            copy.reduced()
            copy.step(iteration, order.clip[keep.owner.stage])
        self._attempt = None
        self._send(LEAD, Stepped(order.ticket, self.address))

    def _twins(self, attempt: _Attempt) -> list[Address]:
        return [seat for seat in attempt.plan.schedule if seat.stage == self.address.stage]

    def _held(self, attempt: _Attempt) -> list[Keep]:
        return [keep for keep in attempt.plan.keeps if keep.holder == self.address]

    # --- states ----------------------------------------------------------------------------------

    def _push(self, order: Push) -> None:
        state = self.stage.snapshot()
        assert state.version == order.version, f"{self.address} is at {state.version}"
        self._send(
            order.keep.holder,
            KeepState(order.epoch, order.keep, order.area, order.shelf, state),
        )

    def _keep(self, message: KeepState) -> None:
        self._epoch = message.epoch
        stage = message.keep.owner.stage
        if stage not in self.copies:
            self.copies[stage] = self._equipment.make(stage)
        self.copies[stage].restore(message.state)
        self._send(LEAD, Kept(message.epoch, message.keep, message.state.version))

    def _reply(self, request: StateRequest) -> StateReply:
        source = request.source
        own = source.of == self.address.stage and not self._hollow
        held = self.stage if own else self.copies.get(source.of)
        if held is None or held.version != source.version:
            problem = f"{self.address} does not hold stage {source.of} of version {source.version}"
            return StateReply(request.epoch, source, None, problem)
        return StateReply(request.epoch, source, held.snapshot())

    def _order(self, order: Rebuild) -> None:
        self._leave()
        self._epoch, self._hollow = order.epoch, True
        self._rebuild, self._states = order, {}
        for source in order.recipe.sources:
            self._send(source.holder, StateRequest(order.epoch, self.address, source))

    def _advance_rebuild(self) -> bool:
        order = self._rebuild
        if order is None or len(self._states) < len(order.recipe.sources):
            return False
        self._rebuild = None
        self._send(LEAD, self._rebuilt(order))
        return True

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
        if not all(bool(torch.isfinite(p).all()) for p in state.params.values()):
            bad = tuple(states)
            return replace(answer, problem="the rebuilt weights are not finite", bad=bad)
        self.stage.restore(state)
        self._hollow = False
        moved = sum(tensor_bytes(reply) for reply in replies)
        return replace(answer, weights=made.weights, bytes=moved)

    def _fresh(self, order: Rebuild) -> Callable[[], StageState]:
        return lambda: self._equipment.fresh(self.address.stage, order.tick)

    def _send(self, to: Address, message: Message) -> None:
        self._out.append((to, message))

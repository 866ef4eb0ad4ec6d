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
from dataclasses import replace

import torch

from checkfree.messages.control import (
    CHECKPOINT,
    HANDOVER,
    RESUME,
    Abort,
    Begin,
    BoundaryRequest,
    Commit,
    Copy,
    Dismissed,
    Kept,
    Message,
    Outgoing,
    Push,
    Rebuild,
    Rebuilt,
    Rollcall,
    Standing,
    StateRequest,
    Stepped,
    Ticket,
)
from checkfree.messages.tensors import (
    Activation,
    BoundaryReply,
    Gradient,
    KeepGradient,
    KeepShadow,
    KeepState,
    Share,
    StageState,
    StateReply,
    tensor_bytes,
)
from checkfree.ops import LEAD, Address, Keep, Kind, Op, Source
from checkfree.recovery.packed import opened, pack_state
from checkfree.recovery.ring import Ring
from checkfree.stage import Stage
from checkfree.worker.attempt import Attempt, Data
from checkfree.worker.boundary import reply
from checkfree.worker.compute import Compute
from checkfree.worker.equipment import Equipment
from checkfree.worker.fitting import fit_and_judge
from checkfree.worker.inspection import problems_of
from checkfree.worker.shadows import Shadows


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
        self._boundaries: dict[Address, BoundaryReply] = {}
        self.shadows = Shadows()
        self._to_push: deque[Keep] = deque()
        self._pushed_in = -1
        self._lead = self._heard = 0
        self.dismissed = False
        """The lead lets us go: nobody waits for us any more."""
        self._committed: Commit | None = None
        self._copied: dict[int, int] = {}
        """Of each stage that a copy is held of, the epoch in which it came."""

    @property
    def stage(self) -> Stage:
        return self._compute.stage

    @property
    def copies(self) -> dict[int, Stage]:
        return self._compute.copies

    @property
    def doing(self) -> tuple[Ticket, Op | None, Address | None] | None:
        """What an attempt is at: the op that is next (None: the commit), and who has to send
        something for it first (None: nobody). For whoever looks for a stall."""
        attempt = self._attempt
        if attempt is None or attempt.prepared:
            return None
        return attempt.ticket, attempt.todo[0] if attempt.todo else None, attempt.lacks()

    def destroy(self) -> None:
        """Overwrite with NaN all that dies with this seat, the copies that it held included."""
        self._attempt = None
        self.shadows.destroy()
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
        if self._to_push:
            return [self._shadow_of(self._to_push.popleft())]
        if self._inbox:
            return self._handle(self._inbox.popleft())
        if self._attempt is not None and not self._attempt.prepared:
            return self._advance_attempt(self._attempt)
        order = self._rebuild
        if order is not None and self._answered(order):
            answer = self._rebuilt(order)
            self._rebuild, self._states, self._boundaries = None, {}, {}
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
        self._heard = max(self._heard, getattr(message, "epoch", 0))
        match message:
            case Begin() if self._may_begin(message):
                self._begin(message)
            case Commit() if self._attempt and message.ticket == self._attempt.ticket:
                self._compute.commit(self._attempt, message)
                self._to_push += self._attempt.pushes
                self._pushed_in = message.ticket.epoch
                self._attempt, self._committed = None, message
                return [(LEAD, Stepped(message.ticket, self.address))]
            case Abort() if self._attempt and message.epoch > self._attempt.ticket.epoch:
                self._leave()
            case Push() if message.epoch >= self._epoch and not self._hollow:
                return [(message.keep.holder, self._pushed(message))]
            case KeepState() if message.epoch >= self._epoch:
                return [(LEAD, self._kept(message))]
            case KeepShadow():
                return [(LEAD, self.shadows.keep(message))]
            case BoundaryRequest():
                return [(message.reply_to, reply(self._compute.crossed, self.address, message))]
            case BoundaryReply() if self._rebuild and message.epoch == self._rebuild.epoch:
                self._boundaries[message.sender] = message
            case StateRequest():
                return self._reply(message)
            case Rebuild() if message.life == self.life and message.epoch >= self._epoch:
                return self._order(message)
            case StateReply() if self._rebuild and message.epoch == self._rebuild.epoch:
                self._states[message.source] = message
            case Dismissed():
                self.dismissed = self.dismissed or message.life == self.life
            case Rollcall() if message.lead >= self._lead:
                return [(LEAD, self._standing(message))]
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
        if self._attempt.training:
            self._attempt.crossed = Ring(self._compute.crossed.memory)
            self.shadows.tidy(plan)
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
        if order.area == RESUME:
            state = replace(state, held=self.shadows.flat())
        return KeepState(order.epoch, order.keep, order.area, order.shelf, state)

    def _kept(self, message: KeepState) -> Kept:
        self._epoch = message.epoch
        self._compute.copy_of(message.keep.owner.stage).restore(message.state)
        self._copied[message.keep.owner.stage] = message.epoch
        return Kept(message.epoch, message.keep, message.state.version)

    def _reply(self, request: StateRequest) -> list[Outgoing]:
        """Silence for what is not held: it was asked of an earlier life of this seat, and the
        lead, when it hears of that loss, plans again."""
        source = request.source
        own = source.of == self.address.stage and not self._hollow
        held = self.stage if own else self.copies.get(source.of)
        state = None
        if held is not None and held.version == source.version:
            state = held.snapshot(moments=request.moments)
        elif not own:
            state = self.shadows.read(source)
        if state is None:
            return []
        return [(request.reply_to, StateReply(request.epoch, source, state))]

    def _order(self, order: Rebuild) -> list[Outgoing]:
        self._leave()
        self._epoch, self._hollow = order.epoch, True
        self._rebuild, self._states, self._boundaries = order, {}, {}
        self._compute.crossed = Ring(self._compute.crossed.memory)
        self.shadows.roll_back(order.resume_at)
        recipe, epoch, stage = order.recipe, order.epoch, self.address.stage
        area = HANDOVER if recipe.rule == HANDOVER else CHECKPOINT
        out: list[Outgoing] = [
            (source.holder, StateRequest(epoch, self.address, source, recipe.moments, area))
            for source in recipe.sources
        ]
        for seat in recipe.boundary:
            out.append((seat, BoundaryRequest(epoch, self.address, stage, recipe.pairs)))
        return out

    def _answered(self, order: Rebuild) -> bool:
        asked = len(order.recipe.sources), len(order.recipe.boundary)
        return (len(self._states), len(self._boundaries)) == asked

    def _rebuilt(self, order: Rebuild) -> Rebuilt:
        answer = Rebuilt(order.epoch, self.life, self.address)
        replies = [self._states[source] for source in order.recipe.sources]
        states = {reply.source: reply.state for reply in replies if reply.state is not None}
        missing = [reply for reply in replies if reply.state is None]
        if missing:
            bad = tuple(reply.source for reply in missing)
            return replace(answer, problem=missing[0].problem, bad=bad)
        if wrong := self._problems(states):
            return replace(answer, problem=next(iter(wrong.values())), bad=tuple(wrong))
        made = self._equipment.strategy.rebuild(self.address, self._fresh(order), states)
        state = replace(made.state, version=order.resume_at)
        if not _finite(state):
            problem = "the rebuilt weights are not finite"
            return replace(answer, problem=problem, bad=tuple(states))
        self.stage.restore(state)
        figures, problem = self._judged(order)
        if problem:
            return replace(answer, problem=problem, rejected=True, check=figures)
        self._hollow = False
        moved = sum(map(tensor_bytes, (*replies, *self._boundaries.values())))
        return replace(answer, weights=made.weights, bytes=moved, check=figures)

    def _problems(self, states: Mapping[Source, StageState]) -> dict[Source, str]:
        """Of those that are no good to become what this seat is."""
        return problems_of(opened(states, self.address.stage, self.stage.dtype), self.stage)

    def _judged(self, order: Rebuild) -> tuple[dict[str, float], str]:
        """Fitted, if that is asked for: figures, and what is wrong."""
        boundaries = [self._boundaries[seat] for seat in order.recipe.boundary]
        number, equipment = self.address.stage, self._equipment
        figures, problem = fit_and_judge(self.stage, number, order, boundaries, equipment)
        if not problem and order.recipe.fit and not _finite(self.stage.snapshot(moments=False)):
            problem = "the fitted weights are not finite"
        return figures, problem

    def _shadow_of(self, keep: Keep) -> Outgoing:
        """Our weights as they were just committed: nobody steps before this has left."""
        packed = pack_state(self.stage.snapshot(moments=False), keep.what)
        return keep.holder, KeepShadow(self._pushed_in, keep, packed)

    def _standing(self, call: Rollcall) -> Standing:
        """How we stand, for a new lead. A rebuild that another lead ordered is given up, so that
        this stays true."""
        self._lead, self._rebuild, self._states = call.lead, None, {}
        attempt = self._attempt
        prepared = attempt is not None and attempt.prepared and attempt.training
        return Standing(
            call.lead,
            self.address,
            self.life,
            self._hollow,
            self.stage.version,
            max(self._heard, self._latest.epoch),
            self._committed,
            attempt.ticket if attempt is not None and prepared else None,
            tuple(
                Copy(stage, copy.version, self._copied.get(stage, 0))
                for stage, copy in sorted(self.copies.items())
            ),
            self.shadows.standing(),
        )

    def _fresh(self, order: Rebuild) -> Callable[[], StageState]:
        return lambda: self._equipment.fresh(self.address.stage, order.tick)


def _finite(state: StageState) -> bool:
    """One NaN or inf anywhere in the weights would end the run later, and point at nobody."""
    return all(bool(torch.isfinite(param).all()) for param in state.params.values())

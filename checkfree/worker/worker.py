"""A stage worker that does no I/O: messages in, messages out.

Every runtime hosts this same class. ``deliver`` files a message and never computes; ``advance``
does at most one thing whose inputs are here, and returns what is to be sent. It never blocks,
sleeps, reads a clock or knows how its messages travel, so any delivery order gives the same
numbers.

Rules: an uninitialized worker (no state worth training) begins nothing. It steps only on Commit,
and sends its state only between iterations. What is older than its ticket or epoch is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from checkfree.core.live import ReplayProgress
from checkfree.core.ops import (
    LEAD,
    STORE,
    Address,
    Kind,
    Mirror,
    Op,
    Source,
    StateId,
    Transfer,
    Upload,
)
from checkfree.messages.control import (
    AVERAGE,
    HANDOVER,
    RESUME,
    WAVE,
    WEIGHTS,
    Abort,
    Begin,
    BoundaryRequest,
    Commit,
    Copy,
    Dismissed,
    Doubtful,
    Kept,
    Message,
    Outgoing,
    Purpose,
    Push,
    Rebuild,
    Rebuilt,
    Resend,
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
)
from checkfree.recovery.fit.activations import BufferLimits, Ring
from checkfree.recovery.fit.boundary import reply
from checkfree.recovery.shadow.holder import Shadows
from checkfree.recovery.shadow.owner import Pushes
from checkfree.stage import Stage
from checkfree.stage.learnt import learnable
from checkfree.worker import holding
from checkfree.worker.attempt import Attempt, Data
from checkfree.worker.compute import Compute, Unfit
from checkfree.worker.context import WorkerContext
from checkfree.worker.inspection import may_be_too_far, problem_of
from checkfree.worker.reorder_buffer import ReorderBuffer
from checkfree.worker.replayable import Replayable
from checkfree.worker.stage_replay import StageReplay
from checkfree.worker.state_rebuild import StateRebuild


class StageWorker:
    """One seat: its stage, and the exact copies that it holds for others."""

    def __init__(
        self, address: Address, life: int, context: WorkerContext, *, uninitialized: bool = False
    ):
        self.address, self.life = address, life
        self._compute = Compute(address, context)
        self._context = context
        self._uninitialized = uninitialized
        self._attempt: Attempt | None = None
        self._latest = Ticket(-1, -1)
        self._epoch = -1
        self._inbox: deque[Message] = deque()
        self._early = ReorderBuffer()
        self._state_rebuild: StateRebuild | None = None
        self._replay: StageReplay | None = None
        self.replayable = Replayable(
            address, life, context.log(), shares_memory=context.shares_memory
        )
        self.shadows = Shadows()
        self.pushes = Pushes(address)
        self._lead = self._heard = 0
        self.dismissed = False
        """The lead lets us go: nobody waits for us any more."""
        self.dropped = 0
        """Messages that were no good: of no op of the plan, or of another shape or name."""
        self._committed: Commit | None = None
        self._copied: dict[int, int] = {}
        """Of each stage that a copy is held of, the epoch in which it came."""
        self._brought: tuple[StateId, StageState] | None = None
        """An exact state of our stage that we came with, until we train: a lead may order more
        than one rebuild before that."""

    @property
    def stage(self) -> Stage:
        return self._compute.stage

    @property
    def copies(self) -> dict[int, Stage]:
        return self._compute.copies

    @property
    def doing(self) -> tuple[Ticket, Op | None, Address | None] | None:
        """What an attempt is at: the op that is next (None: the commit), and who has to send
        something for it first (None: nobody; we ourselves: we are to do as we were told). For
        whoever looks for a stall."""
        attempt, replay = self._attempt, self._replay
        if replay is not None and not replay.told:
            return replay.ticket(replay.version), None, replay.lacks()
        if attempt is None or attempt.prepared:
            told = self._inbox or self.pushes
            return (self._latest, None, self.address) if told else None
        return attempt.ticket, attempt.todo[0] if attempt.todo else None, attempt.lacks()

    @property
    def replaying(self) -> ReplayProgress | None:
        """How far its replay is, if it has one under way."""
        replay = self._replay
        return None if replay is None or replay.told or replay.aside else replay.progress

    def destroy(self) -> None:
        """Overwrite with NaN all that dies with this seat, the copies that it held included."""
        self._attempt = self._replay = None
        self.replayable.destroy()
        self.shadows.destroy()
        self.pushes.destroy()
        if self._brought is not None:
            self._brought[1].destroy()
        for stage in self._compute.all():
            stage.destroy()

    def hold(self, held: Callable[[Address], Mapping[str, Tensor]]) -> None:
        """What a snapshot says that it held for others, and knew of what others ``held`` for it.
        Raises ValueError for what is none."""
        own = held(self.address)
        holding.take(self.shadows, self._compute.crossed, own)
        holding.take_left(self.pushes.references, self.address.stage, own, held)

    def resumed(self) -> None:
        """As if this run had been resumed just now, from a swarm's snapshot: what had crossed a
        boundary is not in it."""
        self._compute.crossed = Ring(self._compute.crossed.limits)

    def bring(self, name: StateId, state: StageState) -> None:
        """Come with an exact state of our stage; whether it is of use the lead decides."""
        self._brought = name, state

    def exact(self) -> tuple[StateId, StageState] | None:
        """The state that this life had, or that it came with; for who outlives it."""
        name = self.exact_name()
        if name is None or self._uninitialized:
            return self._brought
        return name, self.stage.snapshot()

    def exact_name(self) -> StateId | None:
        """Of that state; nothing is copied."""
        if self._uninitialized:
            return None if self._brought is None else self._brought[0]
        return StateId(self.address, self.life, self.stage.version)

    # --- messages in -----------------------------------------------------------------------------

    def deliver(self, message: Message) -> None:
        match message:
            case Activation(ticket) | Gradient(ticket) if ticket.purpose is Purpose.REPLAY:
                if self._replay is not None:
                    self._replay.deliver(message)
            case Activation() | Gradient() | Share() | KeepGradient():
                self._file(message)
            case _:
                self._inbox.append(message)

    def _file(self, message: Data) -> None:
        attempt = self._attempt
        if attempt is not None and message.ticket == attempt.ticket:
            good = attempt.expects(message)
            if good and isinstance(message, (Share, KeepGradient)):
                good = self._compute.fits(message)
            if good:
                attempt.file(message)
            self.dropped += not good
        elif message.ticket > self._latest:
            self.dropped += self._early.file(message)

    # --- messages out ----------------------------------------------------------------------------

    def advance(self) -> list[Outgoing] | None:
        """Do one thing. Returns what to send, or None when only a message can help.

        One op, not all that are ready: the first activation leaves before the second starts.
        """
        if self.pushes:  # nobody steps before this has left
            if self.pushes.shelf is not None:
                return [(STORE, self._snapshot())]
            return [self.pushes.push(learnable(self.stage.snapshot(moments=False)))]
        if self._inbox:
            return self._handle(self._inbox.popleft())
        if self._attempt is not None and not self._attempt.prepared:
            return self._advance_attempt(self._attempt)
        if self._state_rebuild is not None and self._state_rebuild.answered():
            return self._become(self._state_rebuild)
        if self._replay is not None:
            return self._advance_replay(self._replay)
        return None

    def _advance_attempt(self, attempt: Attempt) -> list[Outgoing] | None:
        if attempt.todo:
            if attempt.ready(attempt.todo[0]):
                return self._run(attempt, attempt.todo.popleft())
            if attempt.todo[0].kind is Kind.REDUCE and not attempt.shared:
                return self._compute.share(attempt)
        elif not attempt.pushed:
            return self._compute.keep_gradients(attempt)
        elif attempt.keeps_here():
            return self._compute.prepared(attempt)
        return None

    def _run(self, attempt: Attempt, op: Op) -> list[Outgoing]:
        try:
            return self._compute.run(attempt, op)
        except Unfit:  # if no other comes, this stalls, and who owes it is known
            attempt.todo.appendleft(op)
            self.dropped += 1
            return []

    def _handle(self, message: Message) -> list[Outgoing]:
        self._heard = max(self._heard, getattr(message, "epoch", 0))
        match message:
            case Begin() if self._may_begin(message):
                self._begin(message)
            case Commit() if self._attempt and message.ticket == self._attempt.ticket:
                return [(LEAD, self._commit(self._attempt, message))]
            case Abort():
                self._early.forget(message.epoch)
                if self._attempt and message.epoch > self._attempt.ticket.epoch:
                    self._leave()
            case Push() if self._may_push(message):
                if message.doubted and may_be_too_far(self.stage):
                    return [(LEAD, Doubtful(message.epoch, self.address))]
                return [(message.keep.holder, self._pushed(message))]
            case KeepState(keep=Transfer(holder=self.address)) if message.area == WAVE:
                return [(LEAD, self.replayable.hold(message))]
            case KeepState() if message.epoch >= self._epoch:
                return self._kept(message)
            case KeepShadow():
                return self._shadowed(message)
            case Resend() if message.epoch >= self._epoch:
                replay = self._replay
                under_way = {} if replay is None else {replay.version: replay.sent}
                return self.replayable.resend(message, under_way)
            case BoundaryRequest():
                return [(message.reply_to, reply(self._compute.crossed, self.address, message))]
            case StateRequest():
                return self._reply(message)
            case Rebuild() if message.life == self.life and message.epoch >= self._epoch:
                return self._order(message)
            case StateReply() | BoundaryReply() if self._state_rebuild:
                self.dropped += not self._state_rebuild.deliver(message)
            case Dismissed():
                self.dismissed = self.dismissed or message.life == self.life
            case Rollcall() if message.lead >= self._lead:
                # A rebuild that another lead ordered is given up, so that this stays true.
                self._lead, self._state_rebuild = message.lead, None
                return [(LEAD, self.standing)]
            case _:
                pass  # of a ticket, epoch or life that is over
        return []

    def _commit(self, attempt: Attempt, order: Commit) -> Stepped:
        plan = attempt.plan
        self._compute.commit(attempt, order)
        self.pushes.committed(plan)
        self._attempt, self._committed = None, order
        if plan.logs is not None:
            self.replayable.log.add(order.ticket.iteration, attempt.sent)
        if self.address in plan.wave:
            self.replayable.keep_own(self.stage.snapshot())
        logged = plan.logs is not None or plan.wave
        return Stepped(order.ticket, self.address, self.stage.digest() if logged else None)

    def _may_begin(self, plan: Begin) -> bool:
        newer = plan.ticket > self._latest and plan.ticket.epoch >= self._epoch
        return newer and not self._uninitialized

    def _begin(self, plan: Begin) -> None:
        self._leave()
        self._brought = self._replay = None
        self._latest, self._epoch = plan.ticket, plan.ticket.epoch
        self._attempt = Attempt(plan, self.address)
        if self._attempt.training:
            self._attempt.crossed = Ring(self._compute.crossed.limits)
            self.replayable.begin(plan)
            self.shadows.tidy(plan)
            self.pushes.references.tidy(plan)
        for message in self._early.take(plan.ticket):
            self._file(message)

    def _leave(self) -> None:
        self._attempt = None
        for stage in self._compute.all():
            stage.discard()

    # --- states ----------------------------------------------------------------------------------

    def _may_push(self, order: Push) -> bool:
        """What is handed on is named by its version: it is good in any epoch, and in none if we
        have another by now."""
        if order.area == HANDOVER:
            return not self._uninitialized and self.stage.version == order.version
        if order.area == WAVE:
            return self.replayable.can_push(order)
        return not self._uninitialized and order.epoch >= self._epoch

    def _pushed(self, order: Push) -> KeepState:
        if order.area == WAVE:
            return self.replayable.push(order)
        if self.stage.version != order.version:
            at = f"{self.address} is at version {self.stage.version}"
            raise AssertionError(f"{at}, and asked for {order.version}")
        whole = not order.held_only
        state = StageState({}, {}, {}, order.version)
        if whole:
            state = self.stage.snapshot(moments=order.area not in (AVERAGE, WEIGHTS))
        if order.area == RESUME:
            state = replace(state, held=self._held(whole=order.whole))
        return KeepState(order.epoch, order.keep, order.area, order.shelf, state)

    def _snapshot(self) -> KeepState:
        """For ``--resume``, as it was just committed."""
        assert self.pushes.shelf is not None
        (epoch, shelf), self.pushes.shelf = self.pushes.shelf, None
        state = replace(self.stage.snapshot(), held=self._held(whole=False))
        return KeepState(epoch, Upload(self.address), RESUME, shelf, state)

    def _held(self, *, whole: bool) -> dict[str, Tensor]:
        """What we hold for others; ``whole``: activations that only a fit would read, too."""
        crossed = self._compute.crossed if whole else Ring[Activation](BufferLimits())
        return holding.flat(self.shadows, crossed, self.pushes.references)

    def _kept(self, message: KeepState) -> list[Outgoing]:
        """Silence for what is no state of its stage: the lead doesn't count on it then."""
        keep, stage = message.keep, message.keep.owner.stage
        if not isinstance(keep, Mirror) or keep.holder != self.address:
            self.dropped += 1
            return []
        copy = self._compute.copy_of(stage)
        if problem_of(message.state, copy, strangers=self._context.strangers):
            self.dropped += 1
            return []
        self._epoch = message.epoch
        copy.restore(message.state)
        self._copied[stage] = message.epoch
        return [(LEAD, Kept(message.epoch, keep, message.state.version))]

    def _shadowed(self, message: KeepShadow) -> list[Outgoing]:
        """Silence for one that can't be read. In a plan that is over, that is nobody's fault: what
        it is a change of was lost with an earlier life of this seat, or counts no more."""
        try:
            return [(LEAD, self.shadows.keep(message))]
        except (ValueError, RuntimeError):
            self.dropped += not (self._uninitialized or message.epoch < self._epoch)
            return []

    def _reply(self, request: StateRequest) -> list[Outgoing]:
        """Silence for what is not held: it was asked of an earlier life of this seat, and the
        lead, when it hears of that loss, plans again."""
        source = request.source
        own = source.of == self.address.stage and not self._uninitialized
        held = self.stage if own else self.copies.get(source.of)
        state = None
        if held is not None and held.version == source.version:
            state = held.snapshot(moments=request.moments)
        else:
            state = self.replayable.read(source)
            if state is None and not own:
                state = self.shadows.read(source)
        if self._brought is not None:
            _, brought = self._brought
            if source[1:] == (self.address.stage, brought.version):
                state = brought
        if state is None:
            return []
        return [(request.reply_to, StateReply(request.epoch, source, state))]

    def _order(self, order: Rebuild) -> list[Outgoing]:
        self._leave()
        self._epoch = order.epoch
        if order.again is not None:
            return self._order_replay(order)
        self._replay, self._uninitialized = None, True
        self.replayable.go_back(order.resume_at)
        self._compute.crossed = Ring(self._compute.crossed.limits)
        self.shadows.roll_back(order.resume_at)
        self.pushes.references.clear()
        self._state_rebuild = StateRebuild(order, self.address, self._compute, self._context)
        return self._state_rebuild.requests()

    def _become(self, state_rebuild: StateRebuild) -> list[Outgoing]:
        answer, self._state_rebuild = state_rebuild.finish(), None
        replaying = state_rebuild.order.again is not None
        if not replaying:
            self._uninitialized = bool(answer.problem)
        if not answer.problem and replaying:
            began = state_rebuild.restored
            return self._begin_replay(state_rebuild.order, state_rebuild.compute, answer, began)
        if not answer.problem:
            self.pushes.restarted(state_rebuild.shadow())
        return [(LEAD, answer)]

    # --- replays ---------------------------------------------------------------------------------

    def _order_replay(self, order: Rebuild) -> list[Outgoing]:
        """Begin with what is ordered; if that is what the seat has reached, it goes on."""
        again, (source, *_) = order.again, (*order.recipe.sources, None)
        assert again is not None
        compute, before = self._compute, self._replay
        self._replay = None
        if again.aside:  # our own state stays what it is
            compute = Compute(self.address, self._context)
        else:
            self._uninitialized = True
            self._compute.crossed = Ring(self._compute.crossed.limits)
            self.pushes.references.clear()
        reached = Source(self.address, self.address.stage, again.start)
        if before is not None and source == reached and not again.aside:
            return self._begin_replay(order, before.compute, before.answer)
        self._state_rebuild = StateRebuild(order, self.address, compute, self._context)
        return self._state_rebuild.requests()

    def _begin_replay(
        self, order: Rebuild, compute: Compute, answer: Rebuilt, began: StageState | None = None
    ) -> list[Outgoing]:
        """From the version that ``compute`` has, whose state is ``began``, if that is at hand;
        ``answer`` is what the lead hears in the end."""
        now = replace(answer, epoch=order.epoch, life=order.life)
        self._replay = StageReplay(order, compute, self.replayable, now, began)
        return self._replay.told_version()

    def _advance_replay(self, replay: StageReplay) -> list[Outgoing] | None:
        if not replay.done:
            return replay.advance()
        if replay.told:  # kept as long as the lead may have others replayed
            return None
        answer = replay.finish()
        if not replay.aside:
            self._uninitialized = bool(answer.problem)
            self.pushes.restarted(None)
        return [(LEAD, answer)]

    @property
    def standing(self) -> Standing:
        """How we stand, for a new lead."""
        attempt = self._attempt
        prepared = attempt is not None and attempt.prepared and attempt.training
        replay = self._replay
        reached = replay.version if replay is not None and not replay.aside else None
        return Standing(
            self._lead,
            self.address,
            self.life,
            self._uninitialized,
            self.stage.version,
            max(self._heard, self._latest.epoch),
            self._committed,
            attempt.ticket if attempt is not None and prepared else None,
            tuple(
                Copy(stage, copy.version, self._copied.get(stage, 0))
                for stage, copy in sorted(self.copies.items())
            ),
            self.shadows.standing(),
            self.replayable.standing(self.stage.version, reached),
        )

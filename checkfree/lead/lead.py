"""The lead: begins iterations, commits them, and orders repairs. It holds no tensor and does no
I/O, so the same class runs inside one process, beside a stage of a swarm, or in a test.

An iteration is a transaction: nobody steps until everybody is prepared, so a loss in the middle
costs the iteration and never leaves a torn step::

    idle > Due > Struck > BEGIN > all Prepared > COMMIT > all Stepped > idle, tick + 1
                          |  Lost(w)              | Lost(w)
                          +> Abort, epoch + 1     +> finish the commit
                             idle > repair > all Rebuilt > validate > idle

Rules: epochs only grow, at every loss and every new plan. States move only while nobody steps.
Any loss orders pending repairs anew. Nothing is planned before every stage has a seat again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum

from checkfree.lead.desk import Desk
from checkfree.lead.leaving import Farewells
from checkfree.lead.mending import Mending
from checkfree.lead.progress import Progress, Terms
from checkfree.lead.shadowing import Shadowing
from checkfree.lead.shelving import Shelving
from checkfree.lead.takeover import Takeover
from checkfree.lead.transaction import Transaction
from checkfree.lead.trend import follow
from checkfree.membership import Membership
from checkfree.messages.control import (
    HANDOVER,
    Abort,
    Archived,
    Begin,
    Commit,
    Due,
    Joined,
    Kept,
    Leaving,
    Lost,
    Message,
    Outgoing,
    Prepared,
    Purpose,
    Rebuilt,
    Stepped,
    Struck,
    Ticket,
)
from checkfree.ops import (
    FAULTS,
    Address,
    Keep,
    Refusal,
    Route,
    Schedule,
)
from checkfree.record import (
    ValidationRecord,
)
from checkfree.recovery.strategy import Strategy
from checkfree.routes import in_order
from checkfree.schedule import forward_only


class Phase(Enum):
    """What the lead waits for."""

    IDLE = "idle"
    ROLLCALL = "rollcall"
    ASKING = "asking"
    RUNNING = "running"
    COMMITTING = "committing"
    STORING = "storing"
    REBUILDING = "rebuilding"
    ENDED = "ended"


class Lead:
    """One run. ``failure`` says why it ended early, ``done`` that it did not."""

    def __init__(
        self,
        members: Membership,
        strategy: Strategy,
        terms: Terms,
        progress: Progress = Progress(),  # noqa: B008 (frozen)
        takeover: Takeover | None = None,
    ):
        self._desk = Desk(members, strategy, terms, progress)
        self._farewells, self._shelving = Farewells(self._desk), Shelving(self._desk)
        self._mending = Mending(self._desk, self._farewells)
        self.failure = ""
        self.phase = Phase.IDLE
        self._attempt: Transaction | None = None
        self._cleared_at = -1
        self._takeover = takeover
        if takeover is not None:
            self.phase = Phase.ROLLCALL
        self._plans: dict[frozenset[Address], tuple[tuple[Route, ...], Schedule]] = {}

    @property
    def members(self) -> Membership:
        """Who sits where."""
        return self._desk.members

    @property
    def done(self) -> bool:
        """The finished weights are stored."""
        return self._shelving.finished

    @property
    def progress(self) -> Progress:
        """How far the run has come."""
        return self._desk.progress

    def begin_from(self, states: Mapping[int, tuple[int, int]]) -> None:
        """Before anything else: nobody has a state yet, and the store has all of them; see
        ``Farewells.states``."""
        self.inherit(states)
        self.members.empty(sorted(self.members.alive))

    def inherit(self, states: Mapping[int, tuple[int, int]]) -> None:
        """What those who left an earlier lead had handed on, and nobody has used."""
        self._farewells.states = dict(states)
        self._desk.shadowing = Shadowing()

    # --- messages in -----------------------------------------------------------------------------

    def deliver(self, message: Message) -> None:
        if self._takeover is not None:
            return self._takeover.deliver(message)
        match message:
            case Prepared() if self._attempt and message.ticket == self._attempt.ticket:
                self._attempt.prepared[message.sender] = message
            case Stepped() if self._attempt and message.ticket == self._attempt.ticket:
                self._attempt.stepped.add(message.sender)
            case Kept() if message.keep.at == "after":
                self._desk.shadowing.kept(message)
            case Kept() if message.epoch == self.progress.epoch:
                self._desk.keeping.kept(message)
            case Archived(epoch, area) if epoch == self.progress.epoch and area == HANDOVER:
                self._farewells.archived(message)
            case Archived() if message.epoch == self.progress.epoch:
                self._shelving.archived(message)
            case Rebuilt() if message.epoch == self.progress.epoch:
                self._mending.deliver(message)
            case Lost():
                self._lose(message.worker, message.life)
            case Leaving():
                self._farewells.deliver(message)
            case Joined():
                self._join(message.worker, message.life)
            case Struck():
                self._struck(message)
            case _:
                pass  # of a ticket or epoch that is over

    def _struck(self, message: Struck) -> None:
        for worker, life in message.lost:
            self._lose(worker, life)
        for worker, life in message.left:
            self._leave(worker, life)
        for worker, life in message.joined:
            self._join(worker, life)
        if self.phase is Phase.ASKING and message.tick == self.progress.tick:
            self.phase = Phase.IDLE
            if not (message.lost or message.joined or message.left):
                self._cleared_at = message.tick

    def _lose(self, worker: Address, life: int) -> None:
        if self.members.lose(worker, life):
            self._go_on_without(worker)

    def _leave(self, worker: Address, life: int) -> None:
        """As a loss, but that nothing was lost by it."""
        if self.members.holds(worker) and self.members.lives[worker] == life:
            self.members.leave(worker)
            self._go_on_without(worker)

    def _go_on_without(self, worker: Address) -> None:
        self._desk.keeping.lose(worker)
        stepping = self.phase is Phase.COMMITTING
        self._desk.shadowing.lose(worker, self.progress.committed + stepping)
        self._desk.advance_epoch()
        self._cleared_at = -1
        if self._attempt:
            self._attempt.members.discard(worker)
        if self.phase is Phase.RUNNING:
            self._abort()
        elif self.phase is Phase.STORING:
            self.phase = Phase.IDLE
            self._shelving.give_up()
        elif self.phase is Phase.REBUILDING:
            self.phase = Phase.IDLE

    def _join(self, worker: Address, life: int) -> None:
        if self.members.holds(worker) and life > self.members.lives[worker]:
            self._lose(worker, self.members.lives[worker])  # its Lost is still on its way
        if self.members.join(worker, life) and self.phase is Phase.REBUILDING:
            self.phase = Phase.IDLE  # plan again, for both
            self._desk.advance_epoch()

    def _abort(self) -> None:
        assert self._attempt is not None
        for member in sorted(self._attempt.members):
            self._desk.send(member, Abort(self.progress.epoch))
        self._attempt, self.phase = None, Phase.IDLE

    # --- messages out ----------------------------------------------------------------------------

    def advance(self) -> list[Outgoing] | None:
        while not self._desk.out and self._step():
            pass
        return self._desk.take() or None

    def _step(self) -> bool:
        """One move; False when only a message can help."""
        match self.phase:
            case Phase.ROLLCALL:
                return self._take_over()
            case Phase.IDLE:
                return self._choose()
            case Phase.RUNNING:
                return self._all_prepared()
            case Phase.COMMITTING:
                return self._all_stepped()
            case Phase.STORING if not self._desk.keeping.waiting:
                self.phase = Phase.IDLE
                return True
            case Phase.REBUILDING:
                return self._all_rebuilt()
        return False

    def _choose(self) -> bool:
        """Nobody works: what comes next, in the order of the semantics."""
        p, terms = self.progress, self._desk.terms
        if p.committed < terms.iterations and self._farewells.due():
            return self._store(True)
        p = self.progress  # of a later epoch, if somebody was let go
        if not self.members.whole():
            return False
        self._mending.note_losses()
        if self.members.hollow:
            return self._plan_repair()
        if self.members.names() != self._desk.planned:
            self._desk.note_plan({})
        if self._validation_due():
            return self._begin_validation()
        if p.committed >= terms.iterations:
            return self._finish()
        if self._desk.shadowing.waiting(p.committed + self._shelving.snapshot_due()):
            return False
        if self._store(self._shelving.due()):
            return True
        return self._ask() if self._cleared_at != p.tick else self._begin_training()

    def _ask(self) -> bool:
        if self.progress.tick >= self._desk.terms.max_ticks:
            return self._fail(
                f"{self.progress.tick} steps made {self.progress.committed} iterations: losses "
                "roll it back faster than it trains; checkpoint more often or lower the rate"
            )
        self.phase = Phase.ASKING
        self._desk.send(FAULTS, Due(self.progress.epoch, self.progress.tick))
        return True

    # --- a run that another lead began -----------------------------------------------------------

    def _take_over(self) -> bool:
        """Call all, finish the step that was decided if there is one, and go on from there."""
        takeover, desk = self._takeover, self._desk
        assert takeover is not None
        if takeover.complete and (record := takeover.unwritten()) is not None:
            desk.note(record)
            takeover.written(record)
        late = takeover.late() if takeover.complete else []
        desk.out += [*late, *takeover.calls()]
        if not takeover.complete:
            return bool(desk.out)
        desk.members, epoch = takeover.members(), takeover.epoch()
        desk.progress = replace(takeover.history.progress, epoch=epoch, notes=desk.progress.notes)
        desk.keeping.current = takeover.current(desk.strategy)
        desk.shadowing = takeover.shadowing()
        self._mending.take_over(takeover.history)
        if desk.progress.tick not in takeover.history.snapshots:
            self._shelving.give_up()
        for seat in sorted(takeover.standings):
            desk.send(seat, Abort(epoch))
        self._takeover, self.phase = None, Phase.IDLE
        return True

    # --- an iteration ----------------------------------------------------------------------------

    def _begin_training(self) -> bool:
        routes, schedule = self._training_plan()
        keeps = tuple(k for k in self._desk.due_keeps() if k.at == "prepare")
        keeps += self._desk.due_shadows()
        self._begin(Purpose.TRAIN, routes, schedule, keeps)
        return True

    def _training_plan(self) -> tuple[tuple[Route, ...], Schedule]:
        alive = frozenset(self.members.alive)
        if alive not in self._plans:
            routes = self._desk.strategy.routes(
                in_order(sorted(alive), self._desk.terms.microbatches)
            )
            schedule = self._desk.strategy.ops(self._desk.terms.schedule(routes), routes)
            self._plans = {alive: (routes, schedule)}
        return self._plans[alive]

    def _begin_validation(self) -> bool:
        count = self._desk.terms.validation_microbatches
        routes = in_order(sorted(self.members.alive), count)
        self._begin(Purpose.VALIDATE, routes, forward_only(routes), ())
        return True

    def _begin(
        self,
        purpose: Purpose,
        routes: tuple[Route, ...],
        schedule: Schedule,
        keeps: tuple[Keep, ...],
    ) -> None:
        ticket = Ticket(self.progress.epoch, self.progress.committed, purpose)
        self._attempt = Transaction(ticket, set(schedule), routes, keeps)
        self.phase = Phase.RUNNING
        shadows = self._desk.shadowing.tidy(self.progress.committed)
        for member in sorted(schedule):
            self._desk.send(member, Begin(ticket, routes, schedule, keeps, shadows))

    def _all_prepared(self) -> bool:
        attempt = self._attempt
        assert attempt is not None
        if not attempt.all_prepared():
            return False
        if attempt.ticket.purpose is Purpose.VALIDATE:
            self._validated(attempt.loss())
            return True
        if not attempt.finite():
            return self._fail(
                f"the loss or a gradient of iteration {attempt.ticket.iteration} is not finite "
                f"(loss {attempt.loss()}): lower optimizer.lr or set optimizer.clip"
            )
        self.phase = Phase.COMMITTING
        version = attempt.ticket.iteration + 1
        self._desk.shadowing.order(attempt.keeps, version, attempt.ticket.epoch)
        clip = attempt.clip(self._desk.terms)
        attempt.outcome = attempt.record(self.progress.tick, self._desk.terms)
        for member in sorted(attempt.members):
            self._desk.send(member, Commit(attempt.ticket, clip, attempt.outcome))
        return True

    def _all_stepped(self) -> bool:
        attempt = self._attempt
        assert attempt is not None
        if not attempt.all_stepped():
            return False
        self._desk.note(attempt.outcome)
        trend = follow(self.progress.trend, attempt.loss())
        self._desk.update(committed=self.progress.committed + 1, tick=self.progress.tick + 1)
        self._desk.update(trend=trend)
        self._attempt, self.phase = None, Phase.IDLE
        return True

    # --- validation ------------------------------------------------------------------------------

    def _validation_due(self) -> bool:
        p, every = self.progress, self._desk.terms.validation_every
        if self._mending.unread is not None:
            return True
        regular = every and (p.committed % every == 0 or p.committed >= self._desk.terms.iterations)
        return bool(regular) and p.validated_at != p.tick

    def _validated(self, loss: float) -> None:
        p, mended = self.progress, self._mending.unread is not None
        self._desk.note(ValidationRecord(p.committed, p.tick, loss, after_repair=mended))
        self._desk.update(validation=loss, validated_at=p.tick)
        self._mending.read(loss)
        self._attempt, self.phase = None, Phase.IDLE

    # --- recovery --------------------------------------------------------------------------------

    def _plan_repair(self) -> bool:
        refusal = self._mending.plan()
        if refusal is not None:
            return self._fail(refusal.reason)
        self.phase = Phase.REBUILDING
        return True

    def _all_rebuilt(self) -> bool:
        over = self._mending.finish()
        if isinstance(over, Refusal):
            return self._fail(over.reason)
        if over:
            self.phase = Phase.IDLE
        return over

    # --- the rest --------------------------------------------------------------------------------

    def _store(self, ordered: bool) -> bool:
        if ordered:
            self.phase = Phase.STORING
        return ordered

    def _finish(self) -> bool:
        if not self.done:
            return self._store(self._shelving.weights())
        self.phase = Phase.ENDED
        return False

    def _fail(self, reason: str) -> bool:
        self.failure, self.phase = reason, Phase.ENDED
        return False

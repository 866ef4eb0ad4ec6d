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
from typing import Any

from checkfree.lead.keeping import Keeping, first_seats
from checkfree.lead.progress import Progress, Terms
from checkfree.lead.repairing import Repairing
from checkfree.lead.transaction import Transaction
from checkfree.membership import Membership
from checkfree.messages.control import (
    CHECKPOINT,
    RESUME,
    WEIGHTS,
    Abort,
    Archived,
    Begin,
    Commit,
    Due,
    Joined,
    Kept,
    Lost,
    Message,
    Note,
    Outgoing,
    Prepared,
    Purpose,
    Rebuild,
    Rebuilt,
    Stepped,
    Struck,
    Ticket,
)
from checkfree.ops import (
    FAULTS,
    LEAD,
    LOG,
    STORE,
    Address,
    Keep,
    Refusal,
    Route,
    Schedule,
    Source,
    View,
)
from checkfree.record import (
    FailureRecord,
    PlanRecord,
    RecoveryRecord,
    ValidationRecord,
)
from checkfree.recovery.strategy import Strategy, wholly_lost
from checkfree.routes import in_order
from checkfree.schedule import forward_only


class Phase(Enum):
    """What the lead waits for."""

    IDLE = "idle"
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
    ):
        self.members, self._strategy, self._terms = members, strategy, terms
        self.progress = progress
        self.failure = ""
        self.done = False
        self.phase = Phase.IDLE
        self._attempt: Transaction | None = None
        self._keeping = Keeping()
        self._stored_at = progress.tick if progress.tick else -1
        self._cleared_at = -1
        self._repairing: Repairing | None = None
        self._refused: frozenset[Source] = frozenset()
        self._recovery: RecoveryRecord | None = None
        self._planned = members.names() if progress.notes else {}
        self._plans: dict[frozenset[Address], tuple[tuple[Route, ...], Schedule]] = {}
        self._out: list[Outgoing] = []

    # --- messages in -----------------------------------------------------------------------------

    def deliver(self, message: Message) -> None:
        match message:
            case Prepared() if self._attempt and message.ticket == self._attempt.ticket:
                self._attempt.prepared[message.sender] = message
            case Stepped() if self._attempt and message.ticket == self._attempt.ticket:
                self._attempt.stepped.add(message.sender)
            case Kept() if message.epoch == self.progress.epoch:
                self._keeping.kept(message)
            case Archived() if message.epoch == self.progress.epoch:
                self._archived(message)
            case Rebuilt() if self._repairing and message.epoch == self.progress.epoch:
                self._repairing.answers[message.sender] = message
            case Lost():
                self._lose(message.worker, message.life)
            case Joined():
                self._join(message.worker, message.life)
            case Struck():
                self._struck(message)
            case _:
                pass  # of a ticket or epoch that is over

    def _struck(self, message: Struck) -> None:
        for worker, life in message.lost:
            self._lose(worker, life)
        for worker, life in message.joined:
            self._join(worker, life)
        if self.phase is Phase.ASKING and message.tick == self.progress.tick:
            self.phase = Phase.IDLE
            if not message.lost and not message.joined:
                self._cleared_at = message.tick

    def _lose(self, worker: Address, life: int) -> None:
        if not self.members.lose(worker, life):
            return
        self._keeping.lose(worker)
        self._advance_epoch()
        self._cleared_at = -1
        if self._attempt:
            self._attempt.members.discard(worker)
        if self.phase is Phase.RUNNING:
            self._abort()
        elif self.phase is Phase.STORING:
            self.phase, self._stored_at = Phase.IDLE, -1
            self._keeping.give_up()
        elif self.phase is Phase.REBUILDING:
            self.phase = Phase.IDLE

    def _join(self, worker: Address, life: int) -> None:
        if self.members.holds(worker) and life > self.members.lives[worker]:
            self._lose(worker, self.members.lives[worker])  # its Lost is still on its way
        if self.members.join(worker, life) and self.phase is Phase.REBUILDING:
            self.phase = Phase.IDLE  # plan again, for both
            self._advance_epoch()

    def _abort(self) -> None:
        assert self._attempt is not None
        for member in sorted(self._attempt.members):
            self._send(member, Abort(self.progress.epoch))
        self._attempt, self.phase = None, Phase.IDLE

    # --- messages out ----------------------------------------------------------------------------

    def advance(self) -> list[Outgoing] | None:
        while not self._out and self._step():
            pass
        out, self._out = self._out, []
        return out or None

    def _step(self) -> bool:
        """One move; False when only a message can help."""
        match self.phase:
            case Phase.IDLE:
                return self._choose()
            case Phase.RUNNING:
                return self._all_prepared()
            case Phase.COMMITTING:
                return self._all_stepped()
            case Phase.STORING if not self._keeping.waiting:
                self.phase = Phase.IDLE
                return True
            case Phase.REBUILDING:
                return self._all_rebuilt()
        return False

    def _choose(self) -> bool:
        """Nobody works: what comes next, in the order of the semantics."""
        p, terms = self.progress, self._terms
        if not self.members.whole():
            return False
        self._note_losses()
        if self.members.hollow:
            return self._plan_repair()
        if self.members.names() != self._planned:
            self._note_plan({})
        if self._validation_due():
            return self._begin_validation()
        if p.committed >= terms.iterations:
            return self._finish()
        if self._store_due() or self._refresh_keeps():
            return True
        return self._ask() if self._cleared_at != p.tick else self._begin_training()

    def _ask(self) -> bool:
        if self.progress.tick >= self._terms.max_ticks:
            return self._fail(
                f"{self.progress.tick} steps made {self.progress.committed} iterations: losses "
                "roll it back faster than it trains; checkpoint more often or lower the rate"
            )
        self.phase = Phase.ASKING
        self._send(FAULTS, Due(self.progress.epoch, self.progress.tick))
        return True

    # --- an iteration ----------------------------------------------------------------------------

    def _begin_training(self) -> bool:
        routes, schedule = self._training_plan()
        keeps = tuple(k for k in self._due_keeps() if k.at == "prepare")
        self._begin(Purpose.TRAIN, routes, schedule, keeps)
        return True

    def _training_plan(self) -> tuple[tuple[Route, ...], Schedule]:
        alive = frozenset(self.members.alive)
        if alive not in self._plans:
            routes = self._strategy.routes(in_order(sorted(alive), self._terms.microbatches))
            schedule = self._strategy.ops(self._terms.schedule(routes), routes)
            self._plans = {alive: (routes, schedule)}
        return self._plans[alive]

    def _begin_validation(self) -> bool:
        count = self._terms.validation_microbatches
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
        for member in sorted(schedule):
            self._send(member, Begin(ticket, routes, schedule, keeps))

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
        clip = attempt.clip(self._terms)
        for member in sorted(attempt.members):
            self._send(member, Commit(attempt.ticket, clip))
        return True

    def _all_stepped(self) -> bool:
        attempt = self._attempt
        assert attempt is not None
        if not attempt.all_stepped():
            return False
        self._note(attempt.record(self.progress.tick, self._terms))
        self._update(committed=self.progress.committed + 1, tick=self.progress.tick + 1)
        self._attempt, self.phase = None, Phase.IDLE
        return True

    # --- validation ------------------------------------------------------------------------------

    def _validation_due(self) -> bool:
        p, every = self.progress, self._terms.validation_every
        if self._recovery is not None:
            return True
        regular = every and (p.committed % every == 0 or p.committed >= self._terms.iterations)
        return bool(regular) and p.validated_at != p.tick

    def _validated(self, loss: float) -> None:
        p, recovery = self.progress, self._recovery
        self._note(ValidationRecord(p.committed, p.tick, loss, after_repair=recovery is not None))
        self._update(validation=loss, validated_at=p.tick)
        if recovery is not None:
            self._note(replace(recovery, validation_after=loss))
            self._recovery = None
        self._attempt, self.phase = None, Phase.IDLE

    # --- what is put aside -----------------------------------------------------------------------

    def _due_keeps(self) -> tuple[Keep, ...]:
        return self._strategy.keeps(self.progress.committed, sorted(self.members.alive))

    def _refresh_keeps(self) -> bool:
        wanted = [keep for keep in self._due_keeps() if keep.at == "prepare"]
        return self._store(self._keeping.refresh(wanted, self.progress))

    def _store_due(self) -> bool:
        p, every = self.progress, self._terms.resume_every
        owners = tuple(keep.owner for keep in self._due_keeps() if keep.holder == STORE)
        if owners and p.committed not in p.checkpoints:
            return self._archive(CHECKPOINT, p.committed, owners)
        if every and p.tick % every == 0 and self._stored_at != p.tick:
            self._stored_at = p.tick  # after the checkpoint, so that the snapshot knows of it
            return self._archive(RESUME, p.tick, first_seats(self.members.alive))
        return False

    def _archive(self, area: str, shelf: int, owners: tuple[Address, ...]) -> bool:
        lives = self.members.names()
        return self._store(self._keeping.archive(area, shelf, owners, self.progress, lives))

    def _store(self, orders: list[Outgoing]) -> bool:
        self._out += orders
        if orders:
            self.phase = Phase.STORING
        return bool(orders)

    def _archived(self, message: Archived) -> None:
        self._keeping.archived(message)
        if message.area == CHECKPOINT:
            self._update(checkpoints=message.offered)
        self.done = self.done or message.area == WEIGHTS

    # --- recovery --------------------------------------------------------------------------------

    def _note_losses(self) -> None:
        lost = self.members.take_losses()
        if not lost:
            return
        if self._recovery is not None:  # lost again before it could be validated
            self._note(self._recovery)
            self._recovery = None
        p = self.progress
        gone = wholly_lost(lost, self._view())
        seats = tuple(map(str, sorted(lost)))
        self._note(FailureRecord(p.committed, p.tick, p.epoch, seats, gone))

    def _view(self) -> View:
        p, alive = self.progress, frozenset(self.members.alive)
        keeps = frozenset(keep for keep in self._keeping.current if keep.holder in alive)
        seats = alive | self.members.hollow
        count = self.members.num_stages
        return View(alive, count, p.committed, keeps, p.checkpoints, p.repairs, seats)

    def _plan_repair(self) -> bool:
        view = self._view()
        repair = self._strategy.repair(frozenset(self.members.hollow), view, self._refused)
        if isinstance(repair, Refusal):
            return self._fail(f"iteration {self.progress.committed}: {repair.reason}")
        used = {s for recipe in repair.rebuild.values() for s in recipe.sources}
        if used & self._refused:
            return self._fail(
                f"the state of {min(used & self._refused)} is no good to rebuild from: "
                "recovery=checkpoint keeps older ones"
            )
        self._repairing, self.phase = Repairing(repair), Phase.REBUILDING
        self.members.empty(repair.rebuild)
        p = self.progress
        for seat, recipe in sorted(repair.rebuild.items()):
            life = self.members.lives[seat]
            self._send(seat, Rebuild(p.epoch, life, recipe, p.tick, repair.resume_at))
        return True

    def _all_rebuilt(self) -> bool:
        repairing = self._repairing
        assert repairing is not None
        failed = repairing.failed()
        if failed and not failed[0].bad:
            return self._fail(f"{failed[0].sender} could not be rebuilt: {failed[0].problem}")
        if failed:
            self._refused |= repairing.bad()
            self._advance_epoch()
            self.phase = Phase.IDLE
        elif repairing.complete():
            self._accept(repairing)
        return self.phase is Phase.IDLE

    def _accept(self, repairing: Repairing) -> None:
        p, plan = self.progress, repairing.plan
        seats = plan.rebuild.keys()
        inexact = wholly_lost(seats, self._view())
        self.members.fill(seats)
        self._keeping.replace(seats)
        recovery = repairing.record(p)
        kept = tuple(version for version in p.checkpoints if version <= plan.resume_at)
        self._update(committed=plan.resume_at, checkpoints=kept, repairs=p.repairs + 1)
        self._refused, self._repairing, self.phase = frozenset(), None, Phase.IDLE
        self._note_plan(recovery.rebuilds)
        if inexact and self._terms.validate_after_repair:
            self._recovery = recovery
        else:
            self._note(recovery)

    # --- the rest --------------------------------------------------------------------------------

    def _finish(self) -> bool:
        if self.done:
            self.phase = Phase.ENDED
            return False
        return self._archive(WEIGHTS, self.progress.committed, first_seats(self.members.alive))

    def _fail(self, reason: str) -> bool:
        self.failure, self.phase = reason, Phase.ENDED
        return False

    def _advance_epoch(self) -> None:
        self._update(epoch=self.progress.epoch + 1)

    def _update(self, **changes: Any) -> None:
        self.progress = replace(self.progress, **changes)

    def _note_plan(self, rebuilds: Mapping[str, Mapping[str, object]]) -> None:
        p, self._planned = self.progress, self.members.names()
        self._note(PlanRecord(p.epoch, p.committed, p.tick, self._planned, rebuilds))

    def _note(self, record: object) -> None:
        self._send(LOG, Note(self.progress.notes, record))
        self._update(notes=self.progress.notes + 1)

    def _send(self, to: Address, message: Message) -> None:
        assert to != LEAD
        self._out.append((to, message))

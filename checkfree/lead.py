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

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from checkfree.membership import Membership
from checkfree.messages.control import (
    CHECKPOINT,
    RESUME,
    WEIGHTS,
    Abort,
    Archive,
    Archived,
    Begin,
    Commit,
    Drop,
    Due,
    Joined,
    Kept,
    Lost,
    Message,
    Note,
    Outgoing,
    Prepared,
    Purpose,
    Push,
    Rebuild,
    Rebuilt,
    Stepped,
    Struck,
    Ticket,
)
from checkfree.ops import FAULTS, LEAD, LOG, STORE, Address, Keep, Refusal, Repair, Route
from checkfree.ops import Schedule, Source, View
from checkfree.record import (
    FailureRecord,
    IterationRecord,
    PlanRecord,
    RecoveryRecord,
    ValidationRecord,
)
from checkfree.recovery.strategy import Strategy, wholly_lost
from checkfree.routes import in_order
from checkfree.schedule import forward_only


@dataclass(frozen=True)
class Terms:
    """What the lead has to know of a run."""

    iterations: int
    microbatches: int
    schedule: Callable[[tuple[Route, ...]], Schedule]
    clip: float | None = 1.0
    clip_over: str = "stage"
    validation_every: int = 0
    validation_microbatches: int = 1
    validate_after_repair: bool = False
    resume_every: int = 0
    max_ticks: int = 1_000_000
    tokens: int | None = None


@dataclass(frozen=True)
class Progress:
    """How far a run has come: what a resumed lead starts from. JSON-able."""

    committed: int = 0
    tick: int = 0
    epoch: int = 0
    repairs: int = 0
    validation: float | None = None
    validated_at: int = -1
    checkpoints: tuple[int, ...] = ()
    notes: int = 0
    """Records that the lead has sent to the log."""


class Phase(Enum):
    """What the lead waits for."""

    IDLE = "idle"
    ASKING = "asking"
    RUNNING = "running"
    COMMITTING = "committing"
    STORING = "storing"
    REBUILDING = "rebuilding"
    ENDED = "ended"


@dataclass
class _Attempt:
    ticket: Ticket
    members: set[Address]
    routes: tuple[Route, ...]
    keeps: tuple[Keep, ...] = ()
    prepared: dict[Address, Prepared] = field(default_factory=dict)
    stepped: set[Address] = field(default_factory=set)
    clip: Mapping[int, float] = field(default_factory=dict)


class Lead:
    """One run. ``failure`` says why it ended early, ``done`` that it did not."""

    def __init__(
        self,
        members: Membership,
        strategy: Strategy,
        terms: Terms,
        progress: Progress = Progress(),  # noqa: B008 (frozen)
    ):
        self._members, self._strategy, self._terms = members, strategy, terms
        self.progress = progress
        self.failure = ""
        self.done = False
        self._phase = Phase.IDLE
        self._attempt: _Attempt | None = None
        self._keeps: set[Keep] = set()  # exact ones that their holders have of this version
        self._awaited: set[Keep | str] = set()
        self._stored_at = progress.tick if progress.tick else -1
        self._cleared_at = -1
        self._repair: Repair | None = None
        self._rebuilt: dict[Address, Rebuilt] = {}
        self._refused: frozenset[Source] = frozenset()
        self._recovery: RecoveryRecord | None = None
        self._planned: dict[str, int] = {}
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
                self._keeps.add(message.keep)
                self._awaited.discard(message.keep)
            case Archived() if message.epoch == self.progress.epoch:
                self._archived(message)
            case Rebuilt() if message.epoch == self.progress.epoch:
                self._rebuilt[message.sender] = message
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
        if self._phase is Phase.ASKING and message.tick == self.progress.tick:
            self._phase = Phase.IDLE
            if not message.lost and not message.joined:
                self._cleared_at = message.tick

    def _lose(self, worker: Address, life: int) -> None:
        if not self._members.lose(worker, life):
            return
        self._keeps = {keep for keep in self._keeps if keep.holder != worker}
        self._advance_epoch()
        self._cleared_at = -1
        if self._attempt:
            self._attempt.members.discard(worker)
        if self._phase is Phase.RUNNING:
            self._abort()
        elif self._phase in (Phase.STORING, Phase.REBUILDING):
            self._phase, self._awaited, self._stored_at = Phase.IDLE, set(), -1

    def _join(self, worker: Address, life: int) -> None:
        if self._members.holds(worker) and life > self._members.lives[worker]:
            self._lose(worker, self._members.lives[worker])  # its Lost is still on its way
        if self._members.join(worker, life) and self._phase is Phase.REBUILDING:
            self._phase = Phase.IDLE  # plan again, for both
            self._advance_epoch()

    def _abort(self) -> None:
        assert self._attempt is not None
        for member in sorted(self._attempt.members):
            self._send(member, Abort(self.progress.epoch))
        self._attempt, self._phase = None, Phase.IDLE

    # --- messages out ----------------------------------------------------------------------------

    def advance(self) -> list[Outgoing] | None:
        while not self._out and self._step():
            pass
        out, self._out = self._out, []
        return out or None

    def _step(self) -> bool:
        """One move; False when only a message can help."""
        match self._phase:
            case Phase.IDLE:
                return self._choose()
            case Phase.RUNNING:
                return self._all_prepared()
            case Phase.COMMITTING:
                return self._all_stepped()
            case Phase.STORING if not self._awaited:
                self._phase = Phase.IDLE
                return True
            case Phase.REBUILDING:
                return self._all_rebuilt()
        return False

    def _choose(self) -> bool:
        """Nobody works: what comes next, in the order of the semantics."""
        p, terms = self.progress, self._terms
        if not self._members.whole():
            return False
        self._note_losses()
        if self._members.hollow:
            return self._plan_repair()
        if self._members.names() != self._planned:
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
        self._phase = Phase.ASKING
        self._send(FAULTS, Due(self.progress.epoch, self.progress.tick))
        return True

    # --- an iteration ----------------------------------------------------------------------------

    def _begin_training(self) -> bool:
        routes, schedule = self._training_plan()
        keeps = tuple(k for k in self._due_keeps() if k.at == "prepare")
        self._begin(Purpose.TRAIN, routes, schedule, keeps)
        return True

    def _training_plan(self) -> tuple[tuple[Route, ...], Schedule]:
        alive = frozenset(self._members.alive)
        if alive not in self._plans:
            routes = self._strategy.routes(in_order(sorted(alive), self._terms.microbatches))
            schedule = self._strategy.ops(self._terms.schedule(routes), routes)
            self._plans = {alive: (routes, schedule)}
        return self._plans[alive]

    def _begin_validation(self) -> bool:
        count = self._terms.validation_microbatches
        routes = in_order(sorted(self._members.alive), count)
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
        self._attempt = _Attempt(ticket, set(schedule), routes, keeps)
        self._phase = Phase.RUNNING
        for member in sorted(schedule):
            self._send(member, Begin(ticket, routes, schedule, keeps))

    def _all_prepared(self) -> bool:
        attempt = self._attempt
        assert attempt is not None
        if not attempt.members <= attempt.prepared.keys():
            return False
        if attempt.ticket.purpose is Purpose.VALIDATE:
            self._validated(_mean_loss(attempt))
            return True
        norms = _gradient_norms(attempt)
        if not all(map(math.isfinite, [_mean_loss(attempt), *norms.values()])):
            return self._fail(
                f"the loss or a gradient of iteration {attempt.ticket.iteration} is not finite "
                f"(loss {_mean_loss(attempt)}): lower optimizer.lr or set optimizer.clip"
            )
        attempt.clip = clip_factors(norms, self._terms.clip, self._terms.clip_over)
        self._phase = Phase.COMMITTING
        for member in sorted(attempt.members):
            self._send(member, Commit(attempt.ticket, attempt.clip))
        return True

    def _all_stepped(self) -> bool:
        attempt = self._attempt
        assert attempt is not None
        if not attempt.members <= attempt.stepped:
            return False
        self._note(self._iteration_record(attempt))
        self._update(committed=self.progress.committed + 1, tick=self.progress.tick + 1)
        self._attempt, self._phase = None, Phase.IDLE
        return True

    def _iteration_record(self, attempt: _Attempt) -> IterationRecord:
        answers = attempt.prepared.values()
        return IterationRecord(
            iteration=attempt.ticket.iteration,
            tick=self.progress.tick,
            epoch=attempt.ticket.epoch,
            loss=_mean_loss(attempt),
            gradient_norms={str(s): norm for s, norm in _gradient_norms(attempt).items()},
            clip={str(s): factor for s, factor in attempt.clip.items()},
            forwards=sum(answer.forwards for answer in answers),
            shadow_forwards=sum(answer.shadow_forwards for answer in answers),
            alive=len(attempt.prepared),
            tokens=self._terms.tokens,
        )

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
        self._attempt, self._phase = None, Phase.IDLE

    # --- what is put aside -----------------------------------------------------------------------

    def _due_keeps(self) -> tuple[Keep, ...]:
        return self._strategy.keeps(self.progress.committed, sorted(self._members.alive))

    def _refresh_keeps(self) -> bool:
        """Exact copies that their holders don't have: whole states, once."""
        wanted = {keep for keep in self._due_keeps() if keep.at == "prepare"}
        self._keeps &= wanted
        missing = sorted(wanted - self._keeps)
        for keep in missing:
            self._send(keep.owner, Push(self.progress.epoch, keep, self.progress.committed))
        if missing:
            self._await(missing)
        return bool(missing)

    def _store_due(self) -> bool:
        p, every = self.progress, self._terms.resume_every
        stored = [keep for keep in self._due_keeps() if keep.holder == STORE]
        if stored and p.committed not in p.checkpoints:
            self._archive(CHECKPOINT, p.committed, stored)
            return True
        if every and p.tick % every == 0 and self._stored_at != p.tick:
            self._stored_at = p.tick  # after the checkpoint, so that the snapshot knows of it
            self._archive(RESUME, p.tick, self._first_seats())
            return True
        return False

    def _first_seats(self) -> list[Keep]:
        seats = sorted(self._members.alive)
        firsts = {seat.stage: seat for seat in reversed(seats)}
        return [Keep(firsts[stage], STORE, "state", "after") for stage in sorted(firsts)]

    def _archive(self, area: str, shelf: int, keeps: list[Keep]) -> None:
        p = self.progress
        owners = tuple(keep.owner for keep in keeps)
        note = {"progress": vars(p), "lives": self._members.names()}
        self._send(STORE, Archive(p.epoch, area, shelf, owners, note))
        for keep in keeps:
            self._send(keep.owner, Push(p.epoch, keep, p.committed, area, shelf))
        self._await([area])

    def _await(self, what: list[Keep] | list[str]) -> None:
        self._phase = Phase.STORING
        self._awaited |= set(what)

    def _archived(self, message: Archived) -> None:
        self._awaited.discard(message.area)
        if message.area == CHECKPOINT:
            self._update(checkpoints=message.offered)
        if message.area == WEIGHTS:
            self.done = True

    # --- recovery --------------------------------------------------------------------------------

    def _note_losses(self) -> None:
        lost = self._members.take_losses()
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
        p, alive = self.progress, frozenset(self._members.alive)
        keeps = frozenset(keep for keep in self._keeps if keep.holder in alive)
        seats = alive | self._members.hollow
        count = self._members.num_stages
        return View(alive, count, p.committed, p.tick, keeps, p.checkpoints, p.repairs, seats)

    def _plan_repair(self) -> bool:
        view = self._view()
        repair = self._strategy.repair(frozenset(self._members.hollow), view, self._refused)
        if isinstance(repair, Refusal):
            return self._fail(f"iteration {self.progress.committed}: {repair.reason}")
        used = {s for recipe in repair.rebuild.values() for s in recipe.sources}
        if used & self._refused:
            return self._fail(
                f"the state of {min(used & self._refused)} is no good to rebuild from"
            )
        self._repair, self._rebuilt, self._phase = repair, {}, Phase.REBUILDING
        self._members.empty(repair.rebuild)
        p = self.progress
        for seat, recipe in sorted(repair.rebuild.items()):
            life = self._members.lives[seat]
            self._send(seat, Rebuild(p.epoch, life, recipe, p.tick, repair.resume_at))
        return True

    def _all_rebuilt(self) -> bool:
        assert self._repair is not None
        failed = [answer for answer in self._rebuilt.values() if answer.problem]
        if failed:
            if not failed[0].bad:
                return self._fail(f"{failed[0].sender} could not be rebuilt: {failed[0].problem}")
            self._refused |= {source for answer in failed for source in answer.bad}
            self._advance_epoch()
            self._phase = Phase.IDLE
            return True
        if self._rebuilt.keys() < self._repair.rebuild.keys():
            return False
        self._accept(self._repair)
        return True

    def _accept(self, repair: Repair) -> None:
        p, seats = self.progress, repair.rebuild.keys()
        gone = wholly_lost(seats, self._view())
        self._members.fill(seats)
        self._keeps = {k for k in self._keeps if k.owner not in seats and k.holder not in seats}
        recovery = self._recovery_record(repair)
        if repair.resume_at != p.committed:
            self._keeps = set()
            self._send(STORE, Drop(CHECKPOINT, repair.resume_at))
        kept = tuple(v for v in p.checkpoints if v <= repair.resume_at)
        self._update(committed=repair.resume_at, checkpoints=kept, repairs=p.repairs + 1)
        self._refused, self._repair, self._phase = frozenset(), None, Phase.IDLE
        self._note_plan(recovery.rebuilds)
        if gone and self._terms.validate_after_repair:
            self._recovery = recovery
        else:
            self._note(recovery)

    def _recovery_record(self, repair: Repair) -> RecoveryRecord:
        p = self.progress
        made = {
            str(seat): {
                "rule": recipe.rule,
                "sources": [
                    {"holder": str(s.holder), "stage": s.of, "version": s.version}
                    for s in recipe.sources
                ],
                "weights": list(self._rebuilt[seat].weights),
                "bytes": self._rebuilt[seat].bytes,
            }
            for seat, recipe in sorted(repair.rebuild.items())
        }
        moved = sum(answer.bytes for answer in self._rebuilt.values())
        before = p.validation
        lost = p.committed - repair.resume_at
        return RecoveryRecord(
            p.committed, p.tick, p.epoch, repair.resume_at, made, moved, lost, before
        )

    # --- the rest --------------------------------------------------------------------------------

    def _finish(self) -> bool:
        if self.done:
            self._phase = Phase.ENDED
            return False
        self._archive(WEIGHTS, self.progress.committed, self._first_seats())
        return True

    def _fail(self, reason: str) -> bool:
        self.failure, self._phase = reason, Phase.ENDED
        return False

    def _advance_epoch(self) -> None:
        self._update(epoch=self.progress.epoch + 1)

    def _update(self, **changes: Any) -> None:
        self.progress = replace(self.progress, **changes)

    def _note_plan(self, rebuilds: Mapping[str, Mapping[str, object]]) -> None:
        p, self._planned = self.progress, self._members.names()
        self._note(PlanRecord(p.epoch, p.committed, p.tick, self._planned, rebuilds))

    def _note(self, record: object) -> None:
        self._send(LOG, Note(self.progress.notes, record))
        self._update(notes=self.progress.notes + 1)

    def _send(self, to: Address, message: Message) -> None:
        assert to != LEAD
        self._out.append((to, message))


def clip_factors(norms: Mapping[int, float], clip: float | None, over: str) -> dict[int, float]:
    """What each stage's gradient is multiplied by so that no norm exceeds ``clip``: its own, or
    that of all stages together (``over="global"``). As torch's ``clip_grad_norm_``."""
    if clip is None:
        return dict.fromkeys(norms, 1.0)
    if over == "global":
        norms = dict.fromkeys(norms, math.sqrt(sum(norm**2 for norm in norms.values())))
    return {stage: min(1.0, clip / (norm + 1e-6)) for stage, norm in norms.items()}


def _mean_loss(attempt: _Attempt) -> float:
    """In the order of microbatches, so that neither delivery nor replicas show."""
    losses = sorted(pair for answer in attempt.prepared.values() for pair in answer.losses)
    return sum(loss for _, loss in losses) / len(attempt.routes)


def _gradient_norms(attempt: _Attempt) -> dict[int, float]:
    norms: dict[int, float] = {}
    for seat in sorted(attempt.prepared):
        norms.setdefault(seat.stage, attempt.prepared[seat].gradient_norm)
    return norms

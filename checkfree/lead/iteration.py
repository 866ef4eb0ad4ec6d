"""One iteration or validation at a time: begun, heard of, committed or aborted, and written down.

A transaction: all are told to begin, and nobody steps until everybody is prepared. Who is lost on
the way to a commit is left out of it; what was decided is finished.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from checkfree.core.errors import TOO_FAR
from checkfree.core.ops import Address, Course, Kind, Mirror, Op, Route, Schedule, Transfer
from checkfree.core.records import IterationRecord
from checkfree.lead.progress import Terms
from checkfree.lead.state import LeadState
from checkfree.lead.trend import follow
from checkfree.messages.control import Abort, Begin, Commit, Prepared, Purpose, Stepped, Ticket
from checkfree.models.chunks import Chunks
from checkfree.pipeline import forward_only
from checkfree.pipeline.routes import in_order, revisiting
from checkfree.recovery.replay.book import Passed
from checkfree.recovery.shadow.ledger import Entry
from checkfree.recovery.strategy import Strategy


@dataclass
class Transaction:
    """One attempt, as the lead sees it: who takes part, and what they answered."""

    ticket: Ticket
    members: set[Address]
    course: Course
    transfers: tuple[Transfer, ...] = ()
    prepared: dict[Address, Prepared] = field(default_factory=dict)
    stepped: dict[Address, Stepped] = field(default_factory=dict)
    outcome: IterationRecord | None = None
    """What will be written down of it, once it is committed."""
    snapshot: tuple[Address, ...] = ()
    """Whose states go to the store then, in the background; none: nobody's."""
    shadows: tuple[Entry, ...] = ()
    """Those that had arrived when it was committed: such a snapshot has them."""
    wave: tuple[Address, ...] = ()
    """Who keeps a copy of what comes of it, to be pushed."""

    @property
    def routes(self) -> tuple[Route, ...]:
        """Of each microbatch."""
        return self.course.routes

    def all_prepared(self) -> bool:
        return self.members <= self.prepared.keys()

    def all_stepped(self) -> bool:
        return self.members <= self.stepped.keys()

    def loss(self) -> float:
        """Mean over the microbatches, added in their order: neither delivery nor replicas show."""
        losses = sorted(pair for answer in self.prepared.values() for pair in answer.losses)
        return sum(loss for _, loss in losses) / len(self.routes)

    def gradient_norms(self) -> dict[int, float]:
        """Of each stage's reduced gradient; all replicas have the same."""
        return {seat.stage: self.prepared[seat].gradient_norm for seat in sorted(self.prepared)}

    def finite(self) -> bool:
        """Something that can be learnt from."""
        return all(map(math.isfinite, (self.loss(), *self.gradient_norms().values())))

    def why_not(self) -> str:
        """Of what is not finite. One line."""
        return (
            f"the loss or a gradient of iteration {self.ticket.iteration} is not finite "
            f"(loss {self.loss()}): {TOO_FAR}"
        )

    def digests(self) -> dict[int, int]:
        """Of each stage's state after the step, where that is logged: that of its first replica,
        who also puts copies of it elsewhere. Others on another kind of processor may have stepped
        to other bits."""
        descending = sorted(self.stepped.items(), reverse=True)
        found = {seat.stage: answer.digest for seat, answer in descending if answer.digest}
        return dict(sorted(found.items()))

    def passed(self, terms: Terms) -> Passed:
        """What a replay has to know of it, once committed."""
        logged = {seat: answer.logged for seat, answer in self.prepared.items()}
        return Passed(self.course, self.clip(terms), self.gradient_norms(), logged)

    def clip(self, terms: Terms) -> dict[int, float]:
        """What each stage multiplies its gradient by."""
        return clip_factors(self.gradient_norms(), terms.clip, terms.clip_over)

    def record(self, tick: int, terms: Terms) -> IterationRecord:
        """What is written down of it, once committed."""
        answers = self.prepared.values()
        return IterationRecord(
            iteration=self.ticket.iteration,
            tick=tick,
            epoch=self.ticket.epoch,
            loss=self.loss(),
            gradient_norms={str(s): norm for s, norm in self.gradient_norms().items()},
            clip={str(s): factor for s, factor in self.clip(terms).items()},
            forwards=sum(answer.forwards for answer in answers),
            redundant_forwards=sum(answer.redundant_forwards for answer in answers),
            alive=len(self.prepared),
            tokens=terms.tokens,
        )


def clip_factors(norms: Mapping[int, float], clip: float | None, over: str) -> dict[int, float]:
    """What each stage's gradient is multiplied by so that no norm exceeds ``clip``: its own, or
    that of all stages together (``over="global"``). As torch's ``clip_grad_norm_``."""
    if clip is None:
        return dict.fromkeys(norms, 1.0)
    if over == "global":
        norms = dict.fromkeys(norms, math.sqrt(sum(norm**2 for norm in norms.values())))
    return {stage: min(1.0, clip / (norm + 1e-6)) for stage, norm in norms.items()}


def course_on(
    routes: tuple[Route, ...],
    strategy: Strategy,
    schedule: Callable[[tuple[Route, ...]], Schedule],
    alive: Collection[Address],
    chunks: Chunks = Chunks.WHOLE,
) -> Course:
    """What becomes of these routes, through each seat's ``chunks``. Replicas that none visits step
    with the others' gradients."""
    taken = revisiting(strategy.routes(routes), chunks)
    ops = schedule(taken)
    unvisited = dict.fromkeys(sorted({*alive} - ops.keys()), (Op(Kind.REDUCE),))
    return Course(taken, strategy.ops({**ops, **unvisited}, taken))


class Iterating:
    """``under_way``: the transaction, if there is one."""

    def __init__(self, lead_state: LeadState):
        self._lead_state = lead_state
        self.under_way: Transaction | None = None
        self._courses: dict[tuple[frozenset[Address], tuple[Route, ...]], Course] = {}

    def deliver(self, message: Prepared | Stepped) -> None:
        """What a member answers; of another ticket, it is over."""
        attempt = self.under_way
        if attempt is None or message.ticket != attempt.ticket:
            return
        if isinstance(message, Prepared):
            attempt.prepared[message.sender] = message
        else:
            attempt.stepped[message.sender] = message

    def lose(self, worker: Address) -> None:
        """Go on without it."""
        if self.under_way is not None:
            self.under_way.members.discard(worker)

    # --- begin -----------------------------------------------------------------------------------

    def train(self, snapshot: tuple[Address, ...] = ()) -> None:
        """Begin the next iteration. When it is committed, these put their states aside."""
        mirrors, transfers = self._lead_state.due_mirrors(), self._lead_state.due_transfers()
        self._begin(Purpose.TRAIN, self._training_course(), mirrors, transfers, snapshot)

    def validate(self) -> None:
        """Begin a validation of the committed weights."""
        terms = self._lead_state.terms
        plain = in_order(sorted(self._lead_state.members.alive), terms.validation_microbatches)
        routes = revisiting(plain, terms.chunks)
        self._begin(Purpose.VALIDATE, Course(routes, forward_only(routes)))

    def _training_course(self) -> Course:
        lead_state, alive = self._lead_state, frozenset(self._lead_state.members.alive)
        routes = lead_state.routes()
        if (alive, routes) not in self._courses:
            terms = lead_state.terms
            course = course_on(routes, lead_state.strategy, terms.schedule, alive, terms.chunks)
            self._courses = {(alive, routes): course}
        return self._courses[alive, routes]

    def _begin(
        self,
        purpose: Purpose,
        course: Course,
        mirrors: tuple[Mirror, ...] = (),
        transfers: tuple[Transfer, ...] = (),
        snapshot: tuple[Address, ...] = (),
    ) -> None:
        lead_state, p = self._lead_state, self._lead_state.progress
        ticket = Ticket(p.epoch, p.committed, purpose)
        shadows = tuple(sorted(lead_state.shadowing.counted(p.committed)))
        book, limit = lead_state.replays, lead_state.terms.iterations
        trains = purpose is Purpose.TRAIN
        wave = book.wave(p.committed, lead_state.members.alive, limit) if trains else ()
        members = set(course.schedule)
        self.under_way = Transaction(
            ticket, members, course, transfers, snapshot=snapshot, wave=wave
        )
        begin = Begin(
            ticket,
            course.routes,
            course.schedule,
            mirrors,
            transfers,
            shadows,
            snapshot,
            p.tick + 1,
            book.logs if trains else None,
            wave,
        )
        for member in sorted(course.schedule):
            lead_state.send(member, begin)

    # --- and end ---------------------------------------------------------------------------------

    def abort(self) -> None:
        """The members forget what they did of it."""
        assert self.under_way is not None
        for member in sorted(self.under_way.members):
            self._lead_state.send(member, Abort(self._lead_state.progress.epoch))
        self.under_way = None

    def commit(self) -> None:
        """All are prepared: they step, and push the shadows that are due."""
        attempt, lead_state = self.under_way, self._lead_state
        assert attempt is not None
        ticket = attempt.ticket
        lead_state.shadowing.order(attempt.transfers, ticket.iteration + 1, ticket.epoch)
        attempt.shadows = lead_state.shadowing.entries()
        attempt.outcome = attempt.record(lead_state.progress.tick, lead_state.terms)
        clip, pushes = attempt.clip(lead_state.terms), lead_state.shadowing.pushes()
        lead_state.commit = Commit(ticket, clip, attempt.outcome, pushes)
        for member in sorted(attempt.members):
            lead_state.send(member, lead_state.commit)

    def stepped(self) -> None:
        """All have: it is over, and written down."""
        attempt, lead_state, p = self.under_way, self._lead_state, self._lead_state.progress
        assert attempt is not None
        outcome, digests = attempt.outcome, attempt.digests()
        assert outcome is not None
        told = {str(stage): f"{digest:016x}" for stage, digest in digests.items()}
        lead_state.note(replace(outcome, digests=told) if told else outcome)
        passed = attempt.passed(lead_state.terms)
        wave = attempt.members.intersection(attempt.wave)  # whoever was lost has kept nothing
        lead_state.replays.committed(p.committed, passed, wave, digests)
        trend = follow(p.trend, attempt.loss())
        lead_state.update(committed=p.committed + 1, tick=p.tick + 1, trend=trend)
        self.under_way = None

    def validated(self) -> float:
        """All have answered: it is over. The loss."""
        attempt, self.under_way = self.under_way, None
        assert attempt is not None
        return attempt.loss()

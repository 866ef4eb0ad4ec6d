"""One iteration or validation at a time: begun, heard of, committed or aborted, and written down.

A transaction: all are told to begin, and nobody steps until everybody is prepared. Who is lost on
the way to a commit is left out of it; what was decided is finished.
"""

from __future__ import annotations

from checkfree.core.ops import Address, Mirror, Route, Schedule, Transfer
from checkfree.lead.state import LeadState
from checkfree.lead.transaction import Transaction
from checkfree.lead.trend import follow
from checkfree.messages.control import Abort, Begin, Commit, Prepared, Purpose, Stepped, Ticket
from checkfree.pipeline import forward_only
from checkfree.pipeline.routes import in_order


class Iterating:
    """``under_way``: the transaction, if there is one."""

    def __init__(self, lead_state: LeadState):
        self._lead_state = lead_state
        self.under_way: Transaction | None = None
        self._plans: dict[frozenset[Address], tuple[tuple[Route, ...], Schedule]] = {}

    def deliver(self, message: Prepared | Stepped) -> None:
        """What a member answers; of another ticket, it is over."""
        attempt = self.under_way
        if attempt is None or message.ticket != attempt.ticket:
            return
        if isinstance(message, Prepared):
            attempt.prepared[message.sender] = message
        else:
            attempt.stepped.add(message.sender)

    def lose(self, worker: Address) -> None:
        """Go on without it."""
        if self.under_way is not None:
            self.under_way.members.discard(worker)

    # --- begin -----------------------------------------------------------------------------------

    def train(self, snapshot: tuple[Address, ...] = ()) -> None:
        """Begin the next iteration. When it is committed, these put their states aside."""
        routes, schedule = self._training_plan()
        mirrors, transfers = self._lead_state.due_mirrors(), self._lead_state.due_transfers()
        self._begin(Purpose.TRAIN, routes, schedule, mirrors, transfers, snapshot)

    def validate(self) -> None:
        """Begin a validation of the committed weights."""
        count = self._lead_state.terms.validation_microbatches
        routes = in_order(sorted(self._lead_state.members.alive), count)
        self._begin(Purpose.VALIDATE, routes, forward_only(routes))

    def _training_plan(self) -> tuple[tuple[Route, ...], Schedule]:
        lead_state, alive = self._lead_state, frozenset(self._lead_state.members.alive)
        if alive not in self._plans:
            routes = lead_state.strategy.routes(
                in_order(sorted(alive), lead_state.terms.microbatches)
            )
            schedule = lead_state.strategy.ops(lead_state.terms.schedule(routes), routes)
            self._plans = {alive: (routes, schedule)}
        return self._plans[alive]

    def _begin(
        self,
        purpose: Purpose,
        routes: tuple[Route, ...],
        schedule: Schedule,
        mirrors: tuple[Mirror, ...] = (),
        transfers: tuple[Transfer, ...] = (),
        snapshot: tuple[Address, ...] = (),
    ) -> None:
        lead_state, p = self._lead_state, self._lead_state.progress
        ticket = Ticket(p.epoch, p.committed, purpose)
        self.under_way = Transaction(ticket, set(schedule), routes, transfers, snapshot=snapshot)
        shadows = tuple(sorted(lead_state.shadowing.counted(p.committed)))
        shelf = p.tick + 1
        for member in sorted(schedule):
            begin = Begin(ticket, routes, schedule, mirrors, transfers, shadows, snapshot, shelf)
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
        lead_state.note(attempt.outcome)
        trend = follow(p.trend, attempt.loss())
        lead_state.update(committed=p.committed + 1, tick=p.tick + 1, trend=trend)
        self.under_way = None

    def validated(self) -> float:
        """All have answered: it is over. The loss."""
        attempt, self.under_way = self.under_way, None
        assert attempt is not None
        return attempt.loss()

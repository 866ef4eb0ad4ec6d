"""The lead: begins iterations, commits them, and orders repairs. It holds no tensor and does no
I/O, so the same class runs inside one process, beside a stage of a swarm, or in a test.

An iteration is a transaction: nobody steps until everybody is prepared, so a loss in the middle
costs the iteration and never leaves a torn step::

    idle > Due > Struck > BEGIN > all Prepared > COMMIT > all Stepped > idle, tick + 1
                          |  Lost(w)              | Lost(w)
                          +> Abort, epoch + 1     +> finish the commit
                             idle > repair > all Rebuilt > validate > idle

``checkfree.lead.phase`` has every move.

Rules: epochs only grow, at every loss and every new plan. States move only while nobody steps, but
for those of leavers: a committed state can be sent at any time. Any loss orders pending repairs
anew. Nothing is planned before every stage has a seat again, and nothing inexact as long as
somebody may come back with what was lost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from checkfree.core.errors import TOO_FAR
from checkfree.core.ops import (
    FAULTS,
    Address,
    Location,
    Mirror,
    Refusal,
    Route,
    StateId,
    Transfer,
)
from checkfree.core.records import ValidationRecord
from checkfree.lead.checkpoints import Checkpointing
from checkfree.lead.departures import Departures, Handed
from checkfree.lead.iteration import Iterating
from checkfree.lead.live import Exposure, LiveReport
from checkfree.lead.membership import Membership
from checkfree.lead.phase import MOVES, Phase
from checkfree.lead.progress import Progress, Terms
from checkfree.lead.recovery import RecoveryCoordinator
from checkfree.lead.state import LeadState
from checkfree.lead.takeover import Takeover
from checkfree.messages.control import (
    HANDOVER,
    RESUME,
    WAVE,
    Archived,
    BreakOff,
    Commit,
    Doubtful,
    Due,
    Gone,
    HandedOn,
    Joined,
    Kept,
    Leaving,
    Lost,
    Message,
    Outgoing,
    Prepared,
    Purpose,
    Push,
    Pushed,
    Rebuilt,
    Replaying,
    Reroute,
    Severed,
    Stays,
    Stepped,
    Stop,
    Struck,
    Ticket,
    Unlogged,
)
from checkfree.recovery.strategy import Strategy


class Lead:
    """One run. ``failure`` says why it ended early, ``done`` that it did not, ``stopped`` that it
    was asked to end early, and has put aside what it could."""

    def __init__(
        self,
        members: Membership,
        strategy: Strategy,
        terms: Terms,
        progress: Progress = Progress(),  # noqa: B008 (frozen)
        takeover: Takeover | None = None,
    ):
        self._lead_state = LeadState(members, strategy, terms, progress)
        self._departures = Departures(self._lead_state)
        self._checkpointing = Checkpointing(self._lead_state)
        self._coordinator = RecoveryCoordinator(
            self._lead_state, self._departures, self._checkpointing
        )
        self._iterating = Iterating(self._lead_state)
        self._live = LiveReport(self._lead_state, self._coordinator)
        self.failure, self.stopped = "", False
        self._stopping = False
        self._phase = Phase.IDLE if takeover is None else Phase.ROLLCALL
        self._cleared_at = self._doubted_at = -1
        self._takeover = takeover

    @property
    def phase(self) -> Phase:
        """What it waits for."""
        return self._phase

    @phase.setter
    def phase(self, to: Phase) -> None:
        if to is not self._phase and (self._phase, to) not in MOVES:
            raise AssertionError(f"{self._phase} to {to}")
        self._phase = to

    @property
    def members(self) -> Membership:
        """Who sits where."""
        return self._lead_state.members

    @property
    def done(self) -> bool:
        """The finished weights are stored."""
        return self._checkpointing.finished

    @property
    def well(self) -> bool:
        """No stage is missing, and nothing is repaired or stored: a seat may change hands."""
        calm = self.phase in (Phase.ASKING, Phase.RUNNING, Phase.COMMITTING)
        return calm and not self.members.uninitialized and self.members.whole()

    @property
    def progress(self) -> Progress:
        """How far the run has come."""
        return self._lead_state.progress

    def routes(self) -> tuple[Route, ...]:
        """The ways of microbatches through those who live, before the strategy swaps any."""
        return self._lead_state.routes()

    @property
    def exposure(self) -> Exposure:
        """What a loss would cost, as of the iteration that was begun last."""
        return self._live.exposure

    def inherit(self, states: Mapping[int, Handed]) -> None:
        """What those who left an earlier lead had handed on, and nobody has used."""
        self._departures.inherit(states)

    def may_go_back(self) -> None:
        """To a snapshot, where the strategy gives up before the next iteration: the run was
        resumed, which asks for that."""
        self._coordinator.goes_back = True

    def resumed(self, shadows: Collection[tuple[str, str, str, int]]) -> None:
        """As if this run had been resumed just now, from a snapshot with these."""
        self._lead_state.shadowing.resumed(shadows)

    def returning(
        self, state: StateId, prepared: Ticket | None
    ) -> tuple[StateId, Commit | None] | None:
        """What a state is good for that has outlived its life: what it is after the step that it
        has missed, and that step, if it has missed one; None: nothing."""
        missed = None if prepared is None else self.missed(state, prepared)
        if missed is not None:
            return state._replace(version=state.version + 1), missed
        stepping = self.phase is Phase.COMMITTING
        known = self.members.ended.get(state.seat) == state.life
        good = known and state.version == self.progress.committed + stepping
        return (state, None) if good else None

    def missed(self, state: StateId, prepared: Ticket) -> Commit | None:
        """The step that whoever has this state was prepared for when it was lost, and that was
        decided: it may take it now, and is as if it had never been gone."""
        commit, known = self._lead_state.commit, self.members.ended.get(state.seat) == state.life
        decided = commit is not None and commit.ticket == prepared
        return commit if decided and known and state.version == prepared.iteration else None

    # --- messages in -----------------------------------------------------------------------------

    def deliver(self, message: Message) -> None:
        """What is of a ticket or an epoch that is over changes nothing."""
        if isinstance(message, Stop):
            return self._stop()
        if self._takeover is not None:
            return self._takeover.deliver(message)
        match message:
            case Prepared() | Stepped():
                self._iterating.deliver(message)
            case Kept(epoch, Transfer(what="state") as transfer, version):
                self._lead_state.replays.kept(transfer, version, epoch)
            case Kept(epoch, Transfer() as transfer, version):
                self._lead_state.shadowing.kept(Pushed(transfer, version, epoch))
            case Kept(epoch, Mirror() as mirror) if epoch == self.progress.epoch:
                self._lead_state.keeping.kept(mirror)
            case Archived() if message.area == HANDOVER:
                self._departures.archived(message)
            case Archived() if message.area == RESUME:
                self._checkpointing.snapshot(message)
            case Archived() if message.epoch == self.progress.epoch:
                self._checkpointing.archived(message)
            case Doubtful() if message.epoch == self.progress.epoch:
                self._doubt()
            case Rebuilt() | Replaying() if message.epoch == self.progress.epoch:
                self._coordinator.deliver(message)
            case Unlogged() if self.members.lives.get(message.sender) == message.life:
                self._lead_state.replays.unlogged(message.sender, message.since)
                self._plan_again()
            case Lost():
                self._lose(message.worker, message.life, silent=message.silent)
            case Gone():
                self.members.gone(message.worker, message.life)
                self._departures.gone(message.worker)
            case Leaving():
                self._departures.deliver(message)
                if self.phase not in (Phase.COMMITTING, Phase.ENDED):
                    self._departures.hurry()
            case Stays():
                self._departures.stays(message.worker, message.life)
            case HandedOn():
                self._departures.handed_on(message)
            case BreakOff() if self._departures.leaves(message.worker, message.life):
                if self.phase is Phase.RUNNING:
                    # It can't end in time, so it ends now: what its leaver has, it hands on.
                    self._lead_state.advance_epoch()
                    self._iterating.abort()
                    self.phase, self._cleared_at = Phase.IDLE, -1
            case Reroute():
                self._lead_state.reroute(message)
            case Severed():
                self._begin_anew(message.one, message.other)
            case Joined():
                self._join(message.worker, message.life, message.brings, message.at)
            case Struck():
                self._struck(message)

    def _struck(self, message: Struck) -> None:
        for worker, life in message.lost:
            self._lose(worker, life)
        for worker, life in message.left:  # as a loss, but that nothing was lost by it
            if self.members.holds(worker) and self.members.lives[worker] == life:
                self.members.leave(worker)
                self._go_on_without(worker)
        for worker, life in message.joined:
            self._join(worker, life)
        if self.phase is Phase.ASKING and message.tick == self.progress.tick:
            self.phase = Phase.IDLE
            if not (message.lost or message.joined or message.left):
                self._cleared_at = message.tick

    def _doubt(self) -> None:
        """The last weights are validated before they are stored, unless they have been."""
        p = self.progress
        over = p.committed >= self._lead_state.terms.iterations
        if self.phase is Phase.STORING and over and p.validated_at != p.tick:
            self._doubted_at = p.tick
            self._checkpointing.give_up()
            self._lead_state.advance_epoch()
            self.phase = Phase.IDLE

    def _lose(self, worker: Address, life: int, *, silent: bool = False) -> None:
        brought = self.members.brings.get(worker)
        if self.members.lose(worker, life, silent=silent):
            self._departures.heir_lost(brought)
            self._go_on_without(worker)

    def _go_on_without(self, worker: Address) -> None:
        self._lead_state.replays.lose(worker, self.progress.committed)
        self._iterating.lose(worker)
        self._begin_anew(worker)

    def _begin_anew(self, *workers: Address) -> None:
        """What is under way, for what was pushed to them or by them of late may not be there."""
        stepping = self.phase is Phase.COMMITTING
        for worker in workers:
            self._lead_state.keeping.lose(worker)
            self._lead_state.shadowing.lose(worker, self.progress.committed + stepping)
            self._lead_state.replays.unsure(worker, self.progress.committed)
        self._lead_state.advance_epoch()
        self._cleared_at = -1
        if self.phase is Phase.RUNNING:
            self._iterating.abort()
        self._checkpointing.lose()
        if self.phase is Phase.STORING:
            self._checkpointing.give_up()
        if self.phase in (Phase.RUNNING, Phase.STORING, Phase.HANDING_ON, Phase.REBUILDING):
            self.phase = Phase.IDLE

    def _join(
        self,
        worker: Address,
        life: int,
        brings: StateId | None = None,
        at: Location | None = None,
    ) -> None:
        if self.members.holds(worker) and life > self.members.lives[worker]:
            self._lose(worker, self.members.lives[worker])  # its Lost is still on its way
        if self.members.join(worker, life, brings, at):
            self._plan_again()  # for both

    def _plan_again(self) -> None:
        """A repair that is under way."""
        if self.phase is Phase.REBUILDING:
            self.phase = Phase.IDLE
            self._lead_state.advance_epoch()

    def _stop(self) -> None:
        """What was decided is finished; all else is given up."""
        self._stopping = True
        if self._takeover is not None:
            self.phase, self._takeover, self.stopped = Phase.ENDED, None, True
        if self.phase is Phase.RUNNING:
            self._lead_state.advance_epoch()
            self._iterating.abort()
        if self.phase in (Phase.RUNNING, Phase.REBUILDING, Phase.ASKING, Phase.HANDING_ON):
            self.phase = Phase.IDLE

    # --- messages out ----------------------------------------------------------------------------

    def advance(self) -> list[Outgoing] | None:
        while not self._lead_state.out and self._step():
            pass
        self._live.tell(self.phase)
        return self._lead_state.take() or None

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
            case Phase.STORING if not self._lead_state.keeping.waiting:
                self.phase = Phase.IDLE
                return True
            case Phase.HANDING_ON if not self._departures.waiting:
                self.phase = Phase.IDLE
                return True
            case Phase.REBUILDING:
                return self._all_rebuilt()
        return False

    def _choose(self) -> bool:
        """Nobody works: what comes next, in the order of the semantics."""
        p, terms = self.progress, self._lead_state.terms
        if self._stopping:
            return self._wind_up()
        if p.committed < terms.iterations and self._departures.due():
            self.phase = Phase.HANDING_ON
            return True
        p = self.progress  # of a later epoch, if somebody was let go
        if not self.members.whole():
            return False
        self._coordinator.note_losses()
        if self.members.uninitialized:
            return self._plan_repair()
        if self.members.names() != self._lead_state.planned or self._lead_state.reroutes():
            self._lead_state.note_plan({})
        if self._validation_due():
            return self._run(self._iterating.validate)
        if p.committed >= terms.iterations:
            if p.diverged:
                return self._fail(
                    f"the validation loss after iteration {p.committed - 1}, the last, is not "
                    f"finite: {TOO_FAR}"
                )
            if not self.done:
                return self._store(self._checkpointing.weights())
            self.phase = Phase.ENDED
            return False
        if self._lead_state.shadowing.waiting(p.committed + self._checkpointing.snapshot_due()):
            return False
        if self._store(self._checkpointing.due()):
            return True
        if not self._copied():
            return False
        if self._cleared_at != p.tick:
            return self._ask()
        self._coordinator.goes_back = terms.last_rung
        self._live.look()
        if self._live.exposure.since:
            self._lead_state.replays.hurry(p.committed)
        return self._run(lambda: self._iterating.train(self._checkpointing.coming()))

    def _copied(self) -> bool:
        """Order the copies for replays that are missing; False: one that is to count by now has not
        arrived."""
        lead_state, p = self._lead_state, self.progress
        book, alive, at = lead_state.replays, self.members.alive, self.members.locations
        for transfer, version in book.orders(p.committed, alive, p.epoch, at):
            lead_state.send(transfer.owner, Push(p.epoch, transfer, version, WAVE))
        if book.waiting(p.committed):
            return False
        book.settle(p.committed, alive)
        return True

    def _validation_due(self) -> bool:
        """Every so often, at the end, right after a repair that may have cost something, and of
        last weights that may have gone too far."""
        p, terms = self.progress, self._lead_state.terms
        if self._coordinator.unread is not None:
            return True
        every = terms.validation_every
        regular = every and (p.committed % every == 0 or p.committed >= terms.iterations)
        return bool(regular or self._doubted_at == p.tick) and p.validated_at != p.tick

    def _wind_up(self) -> bool:
        """A snapshot of what is committed, unless somebody is missing, or there is one."""
        members = self.members
        if members.whole() and not members.uninitialized and self._checkpointing.last():
            self.phase = Phase.STORING
            return True
        self.phase, self.stopped = Phase.ENDED, True
        return False

    def _ask(self) -> bool:
        if self.progress.tick >= self._lead_state.terms.max_ticks:
            return self._fail(
                f"{self.progress.tick} steps made {self.progress.committed} iterations: losses "
                "roll it back faster than it trains; checkpoint more often or lower the rate"
            )
        self.phase = Phase.ASKING
        self._lead_state.send(FAULTS, Due(self.progress.epoch, self.progress.tick))
        return True

    # --- a run that another lead began -----------------------------------------------------------

    def _take_over(self) -> bool:
        takeover = self._takeover
        assert takeover is not None
        if not takeover.settle(self._lead_state):
            return bool(self._lead_state.out)
        self._coordinator.take_over(takeover.history)
        self._checkpointing.take_over(takeover.history)
        self._departures.take_over(takeover.leaving)
        self._takeover, self.phase = None, Phase.IDLE
        for message in takeover.unlogged:
            self.deliver(message)
        return True

    # --- an iteration ----------------------------------------------------------------------------

    def _run(self, begin: Callable[[], None]) -> bool:
        begin()
        self.phase = Phase.RUNNING
        return True

    def _all_prepared(self) -> bool:
        attempt = self._iterating.under_way
        assert attempt is not None
        if not attempt.all_prepared():
            return False
        if attempt.ticket.purpose is Purpose.VALIDATE:
            self._validated(self._iterating.validated())
            self.phase = Phase.IDLE
            return True
        if not attempt.finite():
            return self._fail(attempt.why_not())
        self.phase = Phase.COMMITTING
        self._iterating.commit()
        return True

    def _validated(self, loss: float) -> None:
        """It is over, and written down; what a repair cost is known by it."""
        p, mended = self.progress, self._coordinator.unread is not None
        self._lead_state.note(ValidationRecord(p.committed, p.tick, loss, after_repair=mended))
        self._lead_state.update(validation=loss, validated_at=p.tick)
        self._coordinator.read(loss)

    def _all_stepped(self) -> bool:
        attempt = self._iterating.under_way
        assert attempt is not None
        if not attempt.all_stepped():
            return False
        self._iterating.stepped()
        self._checkpointing.follow(attempt)
        self.phase = Phase.IDLE
        return True

    # --- recovery --------------------------------------------------------------------------------

    def _plan_repair(self) -> bool:
        if not self._departures.settled() or self._departures.awaits_heir():
            return False
        planned = self._coordinator.plan()
        if isinstance(planned, Refusal):
            return self._fail(planned.reason)
        if planned:
            self.phase = Phase.REBUILDING
        return planned

    def _all_rebuilt(self) -> bool:
        over = self._coordinator.finish()
        if isinstance(over, Refusal):
            return self._fail(over.reason)
        if over:
            self.phase = Phase.IDLE
        return over

    def _store(self, ordered: bool) -> bool:
        if ordered:
            self.phase = Phase.STORING
        return ordered

    def _fail(self, reason: str) -> bool:
        self.failure, self.phase = reason, Phase.ENDED
        return False

"""How a new lead finds a run that is under way, and decides what became of it. No I/O.

    Rollcall to all who may live > Standing or Lost of each > decided?
        somebody stepped:  it is committed. Write it down, have the prepared step too, call again
        nobody did:        abort. Gradients are kept until told, so nobody has half a step

Rules: what is heard of no epoch is newer than the new one. Who stands in no plan, has another
version than the committed one, or is uninitialized, has no state worth training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from checkfree.core.errors import RunFailed
from checkfree.core.ops import Address, Course, Location, Mirror, Route, StateId, Transfer
from checkfree.core.records import IterationRecord
from checkfree.lead.history import History, ran
from checkfree.lead.iteration import course_on
from checkfree.lead.membership import Membership
from checkfree.lead.state import LeadState
from checkfree.lead.trend import follow
from checkfree.messages.control import (
    RESUME,
    Abort,
    Commit,
    Gone,
    Joined,
    Kept,
    Leaving,
    Lost,
    Message,
    Outgoing,
    Pushed,
    Reroute,
    Rollcall,
    Standing,
    Unlogged,
)
from checkfree.recovery.replay.book import Passed, ReplayBook
from checkfree.recovery.shadow.ledger import Shadowing
from checkfree.recovery.strategy import Strategy


@dataclass
class Takeover:
    """``life``: the new lead's own. ``present``: who sits where, of those who may live."""

    life: int
    history: History
    present: dict[Address, int]
    lives: Mapping[Address, int] = field(default_factory=dict)
    """Of other seats too, the life that sits there next."""
    standings: dict[Address, Standing] = field(default_factory=dict)
    leaving: list[Leaving] = field(default_factory=list)
    """Who asks meanwhile."""
    unlogged: list[Unlogged] = field(default_factory=list)
    """Who has lost its log meanwhile, before or after it told how it stands."""
    brings: dict[Address, StateId] = field(default_factory=dict)
    locations: dict[Address, Location] = field(default_factory=dict)
    """Of those present, who have told it; of others the last plan does."""
    silent: dict[Address, int] = field(default_factory=dict)
    """As membership has them."""
    _arrived: set[Pushed] = field(default_factory=set)
    _called: set[Address] = field(default_factory=set)

    def deliver(self, message: Message) -> None:
        """What comes in until all are heard."""
        match message:
            case Standing() if message.lead == self.life:
                if self.present.get(message.sender) == message.life:
                    self.standings[message.sender] = message
            case Unlogged():
                self.unlogged.append(message)
            case Kept(epoch, Transfer() as transfer, version) if transfer.what != "state":
                self._arrived.add(Pushed(transfer, version, epoch))
            case Leaving():
                self.leaving.append(message)
            case Lost(worker, life, silent):
                if self.present.get(worker, life + 1) <= life:
                    self._forget(worker)
                    self.silent |= {worker: life} if silent else {}
            case Gone(worker, life):
                if self.silent.get(worker) == life:
                    del self.silent[worker]
            case Joined(worker, life, brings, at):
                if self.present.get(worker, -1) < life:
                    self._forget(worker)
                    self.present[worker] = life
                    self.brings |= {worker: brings} if brings else {}
                    self.locations |= {worker: at} if at else {}

    def _forget(self, seat: Address) -> None:
        self.brings.pop(seat, None)
        self.locations.pop(seat, None)
        self.present.pop(seat, None)
        self.standings.pop(seat, None)
        self._called.discard(seat)

    def calls(self) -> list[Outgoing]:
        """Rollcalls for those who were not called yet."""
        missing = sorted(self.present.keys() - self._called)
        self._called |= set(missing)
        return [(seat, Rollcall(self.life)) for seat in missing]

    @property
    def complete(self) -> bool:
        """All who live have answered."""
        return self.present.keys() == self.standings.keys()

    def decided(self) -> Commit | None:
        """The newest step that somebody took."""
        commits = [s.committed for s in self.standings.values() if s.committed is not None]
        return max(commits, key=_tick, default=None)

    def unwritten(self) -> IterationRecord | None:
        """The record of a step that was taken and is not written down. Raises RunFailed if records
        lack more than that one."""
        commit = self.decided()
        if commit is None or commit.record is None:
            return None
        tick = self.history.progress.tick
        if commit.record.tick > tick:
            raise RunFailed(
                f"records.jsonl ends at tick {tick}, and the members have gone on to tick "
                f"{commit.record.tick + 1}: it was cut short; go on with --resume"
            )
        return commit.record if commit.record.tick == tick else None

    def late(self) -> list[Outgoing]:
        """The decided Commit, to those who are prepared for it and have not heard of it; they
        will be called again."""
        commit = self.decided()
        late = sorted(
            seat
            for seat, standing in self.standings.items()
            if commit is not None and standing.prepared == commit.ticket
        )
        for seat in late:
            del self.standings[seat]
            self._called.discard(seat)
        return [(seat, commit) for seat in late if commit is not None]

    def written(self, record: IterationRecord) -> None:
        """It stands in the records now."""
        p = self.history.progress
        now = replace(
            p,
            committed=record.iteration + 1,
            tick=record.tick + 1,
            epoch=max(p.epoch, record.epoch),
            trend=follow(p.trend, record.loss),
        )
        history = self.history
        once_more = ran(history.members, record.clip, record.gradient_norms, history.routes)
        self.history = replace(
            self.history,
            progress=now,
            plans=(),
            passed={**self.history.passed, record.iteration: once_more},
            digests={},
        )

    def settle(self, lead_state: LeadState) -> bool:
        """Call all, finish the step that was decided if there is one, and leave the run on the
        desk as it stands then. False: somebody has not answered."""
        if self.complete and (record := self.unwritten()) is not None:
            lead_state.note(record)
            self.written(record)
        late = self.late() if self.complete else []
        lead_state.out += [*late, *self.calls()]
        if not self.complete:
            return False
        lead_state.members, epoch = self.members(), self.epoch()
        if self.history.routes:
            planned = tuple(sorted(self.history.members))
            lead_state.reroute(Reroute(planned, self.history.routes), noted=True)
        lead_state.progress = replace(
            self.history.progress, epoch=epoch, notes=lead_state.progress.notes
        )
        lead_state.keeping.current = self.current(lead_state.strategy)
        lead_state.shadowing = self.shadowing()
        lead_state.replays = self.replays(lead_state)
        for seat in sorted(self.standings):
            lead_state.send(seat, Abort(epoch))
        return True

    # --- the outcome -----------------------------------------------------------------------------

    def epoch(self) -> int:
        """Newer than all that was heard of."""
        heard = (standing.heard for standing in self.standings.values())
        return 1 + max((self.history.progress.epoch, *heard))

    def members(self) -> Membership:
        """Who trains, and who has to be rebuilt first."""
        planned = self.history.members or self.present
        known = {**self.history.locations, **self.locations}
        members = Membership(planned, {**self.lives, **self.present, **planned}, known)
        for seat, life in planned.items():
            if self.present.get(seat) != life:
                members.lose(seat, life, silent=self.silent.get(seat) == life)
        for seat, standing in sorted(self.standings.items()):
            if not members.holds(seat):
                at = self.locations.get(seat)
                members.join(seat, standing.life, self.brings.get(seat), at)
            elif standing.uninitialized or standing.version != self.history.progress.committed:
                members.empty([seat])
        members.noted(self.history.noted)
        return members

    def shadowing(self) -> Shadowing:
        """As it was with the last step, less what was lost or mended since. Before any step: what
        their holders have."""
        told = (push for standing in self.standings.values() for push in standing.shadows)
        commit, held = self.decided(), self._arrived | set(told)
        made = Shadowing.told(sorted(held) if commit is None else commit.shadows, held)
        for plan in self.history.plans:
            for seat in plan.gone:
                made.lose(seat, plan.committed)
            made.mend(plan.resume_at, plan.renewed)
        for seat, life in self.history.members.items():
            if self.present.get(seat) != life:
                made.lose(seat, self.history.progress.committed)
        return made

    def replays(self, lead_state: LeadState) -> ReplayBook:
        """What there is to replay from, as those tell who have it. The wave on its way is given up;
        what is held of the one before it has arrived."""
        strategy, committed = lead_state.strategy, self.history.progress.committed
        told = {
            seat: standing.replayable
            for seat, standing in sorted(self.standings.items())
            if standing.replayable is not None
        }
        alive = {seat: has for seat, has in told.items() if seat in lead_state.members.alive}
        since = max((has.since for has in alive.values() if has.since is not None), default=None)
        book = ReplayBook(strategy.replays, committed, alive)
        if strategy.replays is None:
            return book
        if since is None and not committed and not lead_state.terms.initial:
            return book  # nobody has begun
        passed = range(committed if since is None else since, committed)
        if since is None or any(iteration not in self.history.passed for iteration in passed):
            book.unknown(committed, alive)
            return book
        courses: dict[tuple[frozenset[Address], tuple[Route, ...]], Course] = {}
        terms = lead_state.terms
        for iteration in passed:
            members, clip, norms, routes = self.history.passed[iteration]
            if (members, routes) not in courses:
                ways = routes or terms.routes(sorted(members), terms.microbatches)
                made = course_on(ways, strategy, terms.schedule, members, terms.chunks)
                courses[members, routes] = made
            mean = {
                seat: has.bytes // (committed - has.log)
                for seat, has in alive.items()
                if has.log <= iteration
            }
            book.passed[iteration] = Passed(courses[members, routes], clip, norms, mean)
        book.digests = {stage: (committed, d) for stage, d in self.history.digests.items()}
        drawn = since == 0 and not lead_state.terms.initial
        at_store = since in dict(self.history.progress.snapshots).values()
        stored = RESUME if at_store else ""
        book.take_over(since, told, alive, self.history.anew, drawn=drawn, stored=stored)
        return book

    def current(self, strategy: Strategy) -> set[Mirror]:
        """Of the exact copies that the planned members were to hold, those that are of the
        committed state, and that no repair of owner or holder has outdated."""
        planned = sorted(self.history.members or self.present)
        keeps = strategy.replications(self.history.progress.committed, planned)
        return {keep for keep in keeps if isinstance(keep, Mirror) and self._holds(keep)}

    def _holds(self, keep: Mirror) -> bool:
        standing = self.standings.get(keep.holder)
        if standing is None:
            return False
        rebuilt: Mapping[Address, int] = self.history.rebuilt
        since = max(rebuilt.get(keep.owner, 0), rebuilt.get(keep.holder, 0))
        committed = self.history.progress.committed
        return any(
            copy.stage == keep.owner.stage and copy.version == committed and copy.since >= since
            for copy in standing.copies
        )


def _tick(commit: Commit) -> int:
    return -1 if commit.record is None else commit.record.tick

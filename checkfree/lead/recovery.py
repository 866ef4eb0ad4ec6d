"""From a loss to a run that is whole again: noted, planned, rebuilt, accepted, and read.

A repair whose sources prove no good is planned again without them; every other failure of a
rebuild ends the run. What an inexact repair cost is read by a validation right after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from checkfree.core.live import ReplayProgress
from checkfree.core.ops import STORE, Address, Recipe, Refusal, Repair, Rung, Source
from checkfree.core.records import FailureRecord, RebuiltSeat, RecoveryRecord, close_stages
from checkfree.lead.checkpoints import Checkpointing
from checkfree.lead.departures import Departures
from checkfree.lead.history import History
from checkfree.lead.progress import Progress
from checkfree.lead.replays import again
from checkfree.lead.state import LeadState
from checkfree.messages.control import (
    CHECKPOINT,
    RESUME,
    SNAPSHOT,
    Rebuild,
    Rebuilt,
    Replaying,
)
from checkfree.recovery.rungs import REPLAY, WAVE, is_exact
from checkfree.recovery.shadow.ledger import renewed
from checkfree.recovery.strategy import wholly_lost

Tried = tuple[Rung, str]
"""A rule for a stage, and what was wrong with it or its sources."""

MOST_TOLD = 4
"""Of what was tried in vain, in a refusal: a rollback fails for all seats at once."""


@dataclass
class PendingRepair:
    """A plan, and what the seats that are rebuilt answered. Complete when all of them have, and
    none of them failed."""

    plan: Repair
    answers: dict[Address, Rebuilt] = field(default_factory=dict)

    def answered(self) -> bool:
        """All have; or one that others wait for can't help them."""
        asked = self.plan.rebuild.keys() | self.plan.relogs.keys()
        failed = any(self.answers[s].problem for s in self.plan.relogs if s in self.answers)
        return failed or self.answers.keys() >= asked

    def failed(self) -> list[Rebuilt]:
        return [answer for _, answer in sorted(self.answers.items()) if answer.problem]

    def bad(self) -> frozenset[Source]:
        """Sources that proved no good."""
        return frozenset(source for answer in self.failed() for source in answer.bad)

    def rejected(self) -> frozenset[Rung]:
        """Rules that made nothing good of good sources."""
        return frozenset(self._rung(answer) for answer in self.failed() if answer.rejected)

    def tried(self) -> list[Tried]:
        """All that failed, and why."""
        return list(dict.fromkeys((self._rung(a), a.problem) for a in self.failed()))

    def _rung(self, answer: Rebuilt) -> Rung:
        relog = self.plan.relogs.get(answer.sender)
        recipe = self.plan.rebuild[answer.sender] if relog is None else relog.recipe
        return Rung(answer.sender.stage, recipe.rule)

    def record(self, progress: Progress, tried: Sequence[Tried]) -> RecoveryRecord:
        """What is written down of it. ``progress`` is that before the repair; ``tried`` what
        failed first."""
        rebuilds = {}
        for seat, recipe in sorted(self.plan.rebuild.items()):
            got = self.answers[seat]
            rejected = tuple((rung.rule, why) for rung, why in tried if rung.stage == seat.stage)
            rebuilds[str(seat)] = RebuiltSeat(recipe, got.weights, got.bytes, got.check, rejected)
        return RecoveryRecord(
            iteration=progress.committed,
            tick=progress.tick,
            epoch=progress.epoch,
            resume_at=self.plan.resume_at,
            rebuilds=rebuilds,
            bytes=sum(answer.bytes for answer in self.answers.values()),
            lost_iterations=progress.committed - self.plan.resume_at,
            validation_before=progress.validation,
        )


def told(tried: Sequence[Tried]) -> str:
    """What else was tried, and why it was no good, for the end of a refusal; nothing, if nothing
    was."""
    whys = [f"{rung.rule} of stage {rung.stage}: {why}" for rung, why in tried[:MOST_TOLD]]
    more = f"; and {len(tried) - MOST_TOLD} more" if len(tried) > MOST_TOLD else ""
    return f" (tried: {'; '.join(whys)}{more})" if whys else ""


class RecoveryCoordinator:
    """``unread``: the repair whose cost the next validation will tell. ``goes_back``: what the
    strategy refuses is taken back to a snapshot."""

    def __init__(self, lead_state: LeadState, departures: Departures, checkpointing: Checkpointing):
        self._lead_state = lead_state
        self._departures, self._checkpointing = departures, checkpointing
        self._under_way: PendingRepair | None = None
        self._refused: frozenset[Source] = frozenset()
        self._tried: list[Tried] = []
        self.unread: RecoveryRecord | None = None
        self.goes_back = lead_state.terms.last_rung
        self._begun = False
        """Under an earlier lead."""

    def take_over(self, history: History) -> None:
        """Go on where another lead was: what it repaired may still have to be written down."""
        self._begun = bool(history.members)
        if history.recovery is None:
            return
        told = history.recovery.validation_after is not None
        if told or history.exact or not self._lead_state.terms.validate_after_repair:
            self._lead_state.note(history.recovery)
        else:
            self.unread = history.recovery

    def replays(self) -> tuple[ReplayProgress, ...]:
        """How far those have come that are replayed, while the repair is under way."""
        book, until = self._lead_state.replays, self._lead_state.progress.committed
        plan = Repair({}, until) if self._under_way is None else self._under_way.plan
        return tuple(
            ReplayProgress(
                seat,
                until if book.base is None else book.base,
                until,
                book.reached.get(seat),
                checked=book.digests.get(seat.stage, (-1, 0))[0] == until,
            )
            for seat, recipe in sorted(plan.rebuild.items())
            if recipe.rule == REPLAY
        )

    def deliver(self, message: Rebuilt | Replaying) -> None:
        """The answer of a seat that was to be rebuilt, or how far it has come."""
        if isinstance(message, Replaying):
            self._lead_state.replays.reached[message.sender] = message.version
        elif self._under_way is not None:
            self._under_way.answers[message.sender] = message

    def note_losses(self) -> None:
        """A record of who was lost since the last time, if anybody was."""
        lead_state = self._lead_state
        lost = lead_state.members.take_losses()
        if not lost:
            return
        if self.unread is not None:  # lost again before it could be validated
            lead_state.note(self.unread)
            self.unread = None
        p, gone = lead_state.progress, wholly_lost(lost, lead_state.view())
        seats = tuple(map(str, sorted(lost)))
        lead_state.note(FailureRecord(p.committed, p.tick, p.epoch, seats, gone))

    def plan(self) -> Refusal | bool:
        """Order the uninitialized seats rebuilt, or say why that can't be. False: somebody may come
        back with the very state that would be made up for."""
        lead_state, p = self._lead_state, self._lead_state.progress
        uninitialized = frozenset(lead_state.members.uninitialized)
        handed = self._departures.repair(uninitialized, self._refused)
        repair: Repair | Refusal = (
            self._last_rung()
            if self._begins()
            else handed
            or lead_state.strategy.repair(uninitialized, lead_state.view(), self._refused)
        )
        # A stage that has nobody but one that fell silent: it may come back with its state.
        members = lead_state.members
        may_return = {s.stage for s in members.silent} - {s.stage for s in members.alive}
        if may_return and not (isinstance(repair, Repair) and is_exact(repair)):
            return False
        if isinstance(repair, Repair):
            repair = self._usable(repair)
        if isinstance(repair, Refusal) and self.goes_back:
            repair = self._last_rung()
        if isinstance(repair, Refusal):
            return Refusal(f"iteration {p.committed}: {repair.reason}{told(self._tried)}")
        self._under_way = PendingRepair(repair)
        members.empty(repair.rebuild)
        book = lead_state.replays
        replayed = {s for s, recipe in repair.rebuild.items() if recipe.rule == REPLAY}
        book.reached = {s: version for s, version in book.reached.items() if s in replayed}
        for seat, relog in sorted(repair.relogs.items()):
            self._order(seat, relog.recipe, repair, relog.until, aside=True)
        for seat, recipe in sorted(repair.rebuild.items()):
            self._order(seat, recipe, repair, p.committed)
        return True

    def _order(
        self, seat: Address, recipe: Recipe, repair: Repair, until: int, *, aside: bool = False
    ) -> None:
        """``until``: the version that a replay ends with; ``aside``: the seat keeps what it
        has."""
        lead_state, p, members = (
            self._lead_state,
            self._lead_state.progress,
            self._lead_state.members,
        )
        seats, once_more = lead_state.view().seats, None
        if recipe.rule == REPLAY:
            once_more = again(lead_state.replays, seat, recipe, until, seats, aside=aside)
        life, at = members.lives[seat], repair.resume_at
        lead_state.send(seat, Rebuild(p.epoch, life, recipe, p.tick, at, once_more))

    def _restart(self, plan: Repair) -> None:
        """Of what replays begin with, when all have gone back to what the store has."""
        lead_state, rules = self._lead_state, {recipe.rule for recipe in plan.rebuild.values()}
        seats = lead_state.view().seats
        if rules == {WAVE}:
            lead_state.replays.go_back(seats)
        elif rules == {SNAPSHOT}:
            drawn = plan.resume_at == 0 and not lead_state.terms.initial
            lead_state.replays.restart(plan.resume_at, seats, "" if drawn else RESUME)
        elif plan.resume_at in lead_state.progress.checkpoints:
            lead_state.replays.restart(plan.resume_at, seats, CHECKPOINT)
        else:
            lead_state.replays.unknown(plan.resume_at, seats)

    def _begins(self) -> bool:
        """Nobody has had a state yet: all begin with one of the store's."""
        lead_state = self._lead_state
        begun = self._begun or lead_state.planned or lead_state.members.alive
        return lead_state.terms.initial and not begun

    def _usable(self, repair: Repair) -> Repair | Refusal:
        """It, unless it is made of what proved no good."""
        used = {s for recipe in repair.rebuild.values() for s in recipe.sources}
        if used & self._refused:
            return Refusal(
                f"the state of {min(used & self._refused)} is no good to rebuild from: "
                "recovery=checkpoint keeps older ones"
            )
        return repair

    def _last_rung(self) -> Repair | Refusal:
        """All go back to the newest good snapshot; to what the run began with, if there is none."""
        seats = sorted(self._lead_state.view().seats)
        for _, version in reversed(self._lead_state.progress.snapshots):
            sources = {seat: Source(STORE, seat.stage, version) for seat in seats}
            if not self._refused.intersection(sources.values()):
                made = {seat: Recipe(SNAPSHOT, (sources[seat],)) for seat in seats}
                return Repair(made, version)
        if not self._lead_state.terms.initial:
            return Repair({seat: Recipe(SNAPSHOT, ()) for seat in seats}, 0)
        first = {seat: Source(STORE, seat.stage, 0) for seat in seats}
        if self._refused.intersection(first.values()):
            return Refusal("the state that the run began with is damaged, and no snapshot is good")
        return Repair({seat: Recipe(SNAPSHOT, (first[seat],)) for seat in seats}, 0)

    def finish(self) -> Refusal | bool:
        """Whether this repair is over: accepted, or to be planned again without what proved bad.
        Decided when all have answered, so that it doesn't show who was first."""
        assert self._under_way is not None
        if not self._under_way.answered():
            return False
        failed = self._under_way.failed()
        hopeless = [answer for answer in failed if not answer.bad and not answer.rejected]
        if hopeless:
            return Refusal(f"{hopeless[0].sender} could not be rebuilt: {hopeless[0].problem}")
        if failed:
            self._refused |= self._under_way.bad()
            self._lead_state.rejected |= self._under_way.rejected()
            self._tried += self._under_way.tried()
            self._lead_state.advance_epoch()
            return True
        self._accept(self._under_way)
        return True

    def read(self, loss: float) -> None:
        """What the validation right after the repair found."""
        if self.unread is not None:
            self._lead_state.note(replace(self.unread, validation_after=loss))
            self.unread = None

    def _accept(self, repairing: PendingRepair) -> None:
        lead_state, plan = self._lead_state, repairing.plan
        p, seats = lead_state.progress, plan.rebuild.keys()
        if self._begins():
            lead_state.members.fill(seats)
            self._refused, self._under_way, self._tried = frozenset(), None, []
            return lead_state.note_plan({})
        inexact = () if is_exact(plan) else wholly_lost(seats, lead_state.view())
        self._departures.rebuilt(plan)
        lead_state.members.fill(seats)
        lead_state.keeping.replace(seats)
        recovery = repairing.record(p, self._tried)
        at_store = all(s.holder == STORE for r in plan.rebuild.values() for s in r.sources)
        if plan.resume_at < p.committed or (at_store and not is_exact(plan)):
            self._restart(plan)
        else:
            lead_state.replays.rebuilt(plan, close_stages(recovery.rebuilds))
        lead_state.shadowing.mend(plan.resume_at, renewed(plan.rebuild))
        kept = tuple(version for version in p.checkpoints if version <= plan.resume_at)
        lead_state.update(committed=plan.resume_at, checkpoints=kept, repairs=p.repairs + 1)
        self._checkpointing.go_back(plan.resume_at)
        self._refused, self._under_way = frozenset(), None
        self._tried, lead_state.rejected = [], frozenset()
        lead_state.note_plan(recovery.rebuilds)
        if inexact and lead_state.terms.validate_after_repair:
            self.unread = recovery
        else:
            lead_state.note(recovery)

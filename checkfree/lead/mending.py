"""From a loss to a run that is whole again: noted, planned, rebuilt, accepted, and read.

A repair whose sources prove no good is planned again without them; every other failure of a
rebuild ends the run. What an inexact repair cost is read by a validation right after it.
"""

from __future__ import annotations

from dataclasses import replace

from checkfree.lead.desk import Desk
from checkfree.lead.history import History
from checkfree.lead.leaving import Farewells
from checkfree.lead.repairing import Repairing, Tried
from checkfree.lead.shelving import Shelving
from checkfree.messages.control import SNAPSHOT, Rebuild, Rebuilt
from checkfree.ops import STORE, Recipe, Refusal, Repair, Source
from checkfree.record import FailureRecord, RecoveryRecord
from checkfree.recovery.exact import is_exact
from checkfree.recovery.shadow.ledger import renewed
from checkfree.recovery.strategy import wholly_lost


class Mending:
    """``unread``: the repair whose cost the next validation will tell. ``goes_back``: what the
    strategy refuses is taken back to a snapshot."""

    def __init__(self, desk: Desk, farewells: Farewells, shelving: Shelving):
        self._desk, self._farewells, self._shelving = desk, farewells, shelving
        self._under_way: Repairing | None = None
        self._refused: frozenset[Source] = frozenset()
        self._tried: list[Tried] = []
        self.unread: RecoveryRecord | None = None
        self.goes_back = desk.terms.last_rung

    def take_over(self, history: History) -> None:
        """Go on where another lead was: what it repaired may still have to be written down."""
        if history.recovery is None:
            return
        told = history.recovery.validation_after is not None
        if told or history.exact or not self._desk.terms.validate_after_repair:
            self._desk.note(history.recovery)
        else:
            self.unread = history.recovery

    def deliver(self, message: Rebuilt) -> None:
        """The answer of a seat that was to be rebuilt."""
        if self._under_way is not None:
            self._under_way.answers[message.sender] = message

    def note_losses(self) -> None:
        """A record of who was lost since the last time, if anybody was."""
        desk = self._desk
        lost = desk.members.take_losses()
        if not lost:
            return
        if self.unread is not None:  # lost again before it could be validated
            desk.note(self.unread)
            self.unread = None
        p, gone = desk.progress, wholly_lost(lost, desk.view())
        seats = tuple(map(str, sorted(lost)))
        desk.note(FailureRecord(p.committed, p.tick, p.epoch, seats, gone))

    def plan(self) -> Refusal | bool:
        """Order the hollow seats rebuilt, or say why that can't be. False: somebody may come back
        with the very state that would be made up for."""
        desk, p = self._desk, self._desk.progress
        hollow = frozenset(desk.members.hollow)
        handed = self._farewells.repair(hollow, self._refused)
        repair = handed or desk.strategy.repair(hollow, desk.view(), self._refused)
        if self._may_return() and not (isinstance(repair, Repair) and is_exact(repair)):
            return False
        if isinstance(repair, Repair):
            repair = self._usable(repair)
        if isinstance(repair, Refusal) and self.goes_back:
            repair = self._last_rung()
        if isinstance(repair, Refusal):
            return Refusal(f"iteration {p.committed}: {repair.reason}")
        self._under_way = Repairing(repair)
        desk.members.empty(repair.rebuild)
        for seat, recipe in sorted(repair.rebuild.items()):
            life = desk.members.lives[seat]
            desk.send(seat, Rebuild(p.epoch, life, recipe, p.tick, repair.resume_at))
        return True

    def _usable(self, repair: Repair) -> Repair | Refusal:
        """It, unless it is made of what proved no good."""
        used = {s for recipe in repair.rebuild.values() for s in recipe.sources}
        if used & self._refused:
            return Refusal(
                f"the state of {min(used & self._refused)} is no good to rebuild from: "
                "recovery=checkpoint keeps older ones"
            )
        return repair

    def _last_rung(self) -> Repair:
        """All go back to the newest good snapshot; to the first weights, if there is none."""
        seats = sorted(self._desk.view().seats)
        for _, version in reversed(self._desk.progress.snapshots):
            sources = {seat: Source(STORE, seat.stage, version) for seat in seats}
            if not self._refused.intersection(sources.values()):
                made = {seat: Recipe(SNAPSHOT, (sources[seat],)) for seat in seats}
                return Repair(made, version)
        return Repair({seat: Recipe(SNAPSHOT, ()) for seat in seats}, 0)

    def _may_return(self) -> bool:
        """A stage has nobody but one that fell silent, and may come back with its state."""
        members = self._desk.members
        return bool({s.stage for s in members.silent} - {s.stage for s in members.alive})

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
            self._desk.rejected |= self._under_way.rejected()
            self._tried += self._under_way.tried()
            self._desk.advance_epoch()
            return True
        self._accept(self._under_way)
        return True

    def read(self, loss: float) -> None:
        """What the validation right after the repair found."""
        if self.unread is not None:
            self._desk.note(replace(self.unread, validation_after=loss))
            self.unread = None

    def _accept(self, repairing: Repairing) -> None:
        desk, plan = self._desk, repairing.plan
        p, seats = desk.progress, plan.rebuild.keys()
        inexact = () if is_exact(plan) else wholly_lost(seats, desk.view())
        self._farewells.rebuilt(plan)
        desk.members.fill(seats)
        desk.keeping.replace(seats)
        made_of = {seat: [s.of for s in recipe.sources] for seat, recipe in plan.rebuild.items()}
        desk.shadowing.mend(plan.resume_at, renewed(made_of))
        recovery = repairing.record(p, self._tried)
        kept = tuple(version for version in p.checkpoints if version <= plan.resume_at)
        desk.update(committed=plan.resume_at, checkpoints=kept, repairs=p.repairs + 1)
        self._shelving.go_back(plan.resume_at)
        self._refused, self._under_way = frozenset(), None
        self._tried, desk.rejected = [], frozenset()
        desk.note_plan(recovery.rebuilds)
        if inexact and desk.terms.validate_after_repair:
            self.unread = recovery
        else:
            desk.note(recovery)

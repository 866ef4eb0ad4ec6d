"""One repair under way: its plan, and what the seats that are rebuilt answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from checkfree.core.ops import Address, Recipe, Repair, Rung, Source
from checkfree.core.records import RebuiltSeat, RecoveryRecord
from checkfree.lead.progress import Progress
from checkfree.messages.control import Rebuilt

Tried = tuple[Rung, str]
"""A rule for a stage, and what was wrong with it or its sources."""


@dataclass
class PendingRepair:
    """Complete when every seat of the plan is rebuilt and none of them failed."""

    plan: Repair
    answers: dict[Address, Rebuilt] = field(default_factory=dict)

    def answered(self) -> bool:
        return self.answers.keys() >= self.plan.rebuild.keys()

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
        return Rung(answer.sender.stage, self.plan.rebuild[answer.sender].rule)

    def record(self, progress: Progress, tried: Sequence[Tried]) -> RecoveryRecord:
        """What is written down of it. ``progress`` is that before the repair; ``tried`` what
        failed first."""
        return RecoveryRecord(
            iteration=progress.committed,
            tick=progress.tick,
            epoch=progress.epoch,
            resume_at=self.plan.resume_at,
            rebuilds={
                str(seat): _rebuilt(seat.stage, recipe, self.answers[seat], tried)
                for seat, recipe in sorted(self.plan.rebuild.items())
            },
            bytes=sum(answer.bytes for answer in self.answers.values()),
            lost_iterations=progress.committed - self.plan.resume_at,
            validation_before=progress.validation,
        )


def _rebuilt(stage: int, recipe: Recipe, answer: Rebuilt, tried: Sequence[Tried]) -> RebuiltSeat:
    rejected = tuple((rung.rule, why) for rung, why in tried if rung.stage == stage)
    return RebuiltSeat(recipe, answer.weights, answer.bytes, answer.check, rejected)

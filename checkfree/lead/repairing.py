"""One repair under way: its plan, and what the seats that are rebuilt answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from checkfree.lead.progress import Progress
from checkfree.messages.control import Rebuilt
from checkfree.ops import Address, Recipe, Repair, Source
from checkfree.record import RecoveryRecord


@dataclass
class Repairing:
    """Complete when every seat of the plan is rebuilt and none of them failed."""

    plan: Repair
    answers: dict[Address, Rebuilt] = field(default_factory=dict)

    def failed(self) -> list[Rebuilt]:
        return [answer for answer in self.answers.values() if answer.problem]

    def bad(self) -> frozenset[Source]:
        """Sources that proved no good."""
        return frozenset(source for answer in self.failed() for source in answer.bad)

    def complete(self) -> bool:
        return self.answers.keys() >= self.plan.rebuild.keys() and not self.failed()

    def record(self, progress: Progress) -> RecoveryRecord:
        """What is written down of it. ``progress`` is that before the repair."""
        return RecoveryRecord(
            iteration=progress.committed,
            tick=progress.tick,
            epoch=progress.epoch,
            resume_at=self.plan.resume_at,
            rebuilds={
                str(seat): _rebuild(recipe, self.answers[seat])
                for seat, recipe in sorted(self.plan.rebuild.items())
            },
            bytes=sum(answer.bytes for answer in self.answers.values()),
            lost_iterations=progress.committed - self.plan.resume_at,
            validation_before=progress.validation,
        )


def _rebuild(recipe: Recipe, answer: Rebuilt) -> dict[str, Any]:
    return {
        "rule": recipe.rule,
        "sources": [
            {"holder": str(source.holder), "stage": source.of, "version": source.version}
            for source in recipe.sources
        ],
        "moments": recipe.moments,
        "weights": list(answer.weights),
        "bytes": answer.bytes,
    }

"""``checkpoint.every`` beside any strategy: what it refuses is rolled back instead."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from checkfree.messages.tensors import StageState
from checkfree.ops import Address, Keep, Refusal, Repair, Route, Schedule, Source, View
from checkfree.recovery.checkpoint import Checkpoint
from checkfree.recovery.ring import Room
from checkfree.recovery.strategy import Fresh, Rebuilding, Strategy


class SafetyNet(Strategy):
    """``inner`` as long as it can, then the newest good checkpoint."""

    def __init__(self, inner: Strategy, checkpoint: Checkpoint):
        self._inner, self._checkpoint = inner, checkpoint

    def routes(self, routes: tuple[Route, ...]) -> tuple[Route, ...]:
        return self._inner.routes(routes)

    def ops(self, schedule: Schedule, routes: tuple[Route, ...]) -> Schedule:
        return self._inner.ops(schedule, routes)

    def keeps(self, version: int, workers: Collection[Address]) -> tuple[Keep, ...]:
        inner, beside = (s.keeps(version, workers) for s in (self._inner, self._checkpoint))
        return inner + tuple(keep for keep in beside if keep not in inner)

    def shadows(self, view: View) -> tuple[Keep, ...]:
        return self._inner.shadows(view)

    def begins(self, stage: int, num_stages: int, at: int, microbatches: int) -> int:
        return self._inner.begins(stage, num_stages, at, microbatches)

    @property
    def room(self) -> Room:
        return self._inner.room

    def repair(
        self, lost: frozenset[Address], view: View, refused: frozenset[Source]
    ) -> Repair | Refusal:
        repair = self._inner.repair(lost, view, refused)
        if isinstance(repair, Repair):
            return repair
        rollback = self._checkpoint.repair(lost, view, refused)
        return rollback if isinstance(rollback, Repair) else repair

    def rebuild(
        self, seat: Address, fresh: Fresh, states: Mapping[Source, StageState]
    ) -> Rebuilding:
        return self._inner.rebuild(seat, fresh, states)

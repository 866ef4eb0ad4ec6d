"""What every strategy is wrapped in: a living replica of the same stage is copied first, and that
is exact; and ``checkpoint.every``, if it is configured, is what comes last.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from checkfree.core.config import RecoveryConfig
from checkfree.core.ops import (
    Address,
    Mirror,
    Recipe,
    Refusal,
    Repair,
    Route,
    Schedule,
    Source,
    Transfer,
    Upload,
    View,
)
from checkfree.messages.tensors import StageState
from checkfree.recovery.checkpoint import Checkpoint
from checkfree.recovery.fit.activations import BufferLimits
from checkfree.recovery.options import CheckpointOptions
from checkfree.recovery.registry import spec_of
from checkfree.recovery.replay.terms import ReplayTerms
from checkfree.recovery.rungs import REPLICA
from checkfree.recovery.strategy import Fresh, Rebuilding, Strategy, taken_whole


def make_strategy(config: RecoveryConfig, checkpoint_every: int | None = None) -> Strategy:
    """The strategy of a configuration, with replicas first and the safety net, if any, last."""
    strategy = spec_of(config).make(config)
    if checkpoint_every is not None:
        strategy = SafetyNet(strategy, Checkpoint(CheckpointOptions(checkpoint_every)))
    return ReplicaFirst(strategy)


class Wrapper(Strategy):
    """``inner``, in all that a subclass doesn't say otherwise."""

    def __init__(self, inner: Strategy):
        self._inner = inner

    def routes(self, routes: tuple[Route, ...]) -> tuple[Route, ...]:
        return self._inner.routes(routes)

    def ops(self, schedule: Schedule, routes: tuple[Route, ...]) -> Schedule:
        return self._inner.ops(schedule, routes)

    def replications(
        self, version: int, workers: Collection[Address]
    ) -> tuple[Mirror | Upload, ...]:
        return self._inner.replications(version, workers)

    def shadows(self, view: View) -> tuple[Transfer, ...]:
        return self._inner.shadows(view)

    def warmup_start(self, stage: int, num_stages: int, at: int, microbatches: int) -> int:
        return self._inner.warmup_start(stage, num_stages, at, microbatches)

    @property
    def activation_buffer(self) -> BufferLimits:
        return self._inner.activation_buffer

    @property
    def replays(self) -> ReplayTerms | None:
        return self._inner.replays

    def repair(
        self, lost: frozenset[Address], view: View, refused: frozenset[Source]
    ) -> Repair | Refusal:
        return self._inner.repair(lost, view, refused)

    def rebuild(
        self, seat: Address, fresh: Fresh, states: Mapping[Source, StageState]
    ) -> Rebuilding:
        return self._inner.rebuild(seat, fresh, states)


class ReplicaFirst(Wrapper):
    """Copies living twins, and asks ``inner`` only about stages that are wholly lost.

    Whatever the rule, a state of the very stage that was lost is taken as it is, with its
    optimizer: ``inner`` makes something new only of other stages' states.
    """

    def repair(
        self, lost: frozenset[Address], view: View, refused: frozenset[Source]
    ) -> Repair | Refusal:
        twins: dict[Address, Recipe] = {}
        for seat in sorted(lost):
            twin = _twin(seat.stage, view, refused)
            if twin is not None:
                twins[seat] = Recipe(REPLICA, (twin,))
        wholly = lost - twins.keys()
        if not wholly:
            return Repair(twins, view.committed)
        repair = self._inner.repair(wholly, view, refused)
        if isinstance(repair, Refusal) or repair.resume_at != view.committed:
            return repair
        return replace(repair, rebuild={**twins, **repair.rebuild})

    def rebuild(
        self, seat: Address, fresh: Fresh, states: Mapping[Source, StageState]
    ) -> Rebuilding:
        if taken_whole(seat.stage, states):
            return Rebuilding(next(iter(states.values())), (1.0,))
        return self._inner.rebuild(seat, fresh, states)


def _twin(stage: int, view: View, refused: frozenset[Source]) -> Source | None:
    """The first living replica whose state has not proved no good, if there is a choice."""
    twins = [Source(s, stage, view.committed) for s in sorted(view.alive) if s.stage == stage]
    good = [twin for twin in twins if twin not in refused]
    return next(iter(good or twins), None)


class SafetyNet(Wrapper):
    """``inner`` as long as it can, then the newest good checkpoint."""

    def __init__(self, inner: Strategy, checkpoint: Checkpoint):
        super().__init__(inner)
        self._checkpoint = checkpoint

    def replications(
        self, version: int, workers: Collection[Address]
    ) -> tuple[Mirror | Upload, ...]:
        inner, beside = (s.replications(version, workers) for s in (self._inner, self._checkpoint))
        return inner + tuple(keep for keep in beside if keep not in inner)

    def repair(
        self, lost: frozenset[Address], view: View, refused: frozenset[Source]
    ) -> Repair | Refusal:
        repair = self._inner.repair(lost, view, refused)
        if isinstance(repair, Repair):
            return repair
        rollback = self._checkpoint.repair(lost, view, refused)
        return rollback if isinstance(rollback, Repair) else repair

"""Checkpoint and rollback: what most systems do today."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from checkfree.core.ops import (
    STORE,
    Address,
    Mirror,
    Recipe,
    Refusal,
    Repair,
    Source,
    Upload,
    View,
)
from checkfree.messages.control import CHECKPOINT
from checkfree.messages.tensors import StageState
from checkfree.recovery.options import CheckpointOptions
from checkfree.recovery.strategy import Fresh, Rebuilding, Strategy, wholly_lost


class Checkpoint(Strategy):
    """Every ``interval`` iterations all stages go to the store, the untrained ones included; a
    loss rolls all of them back to the newest version that is good, and what came after it is
    trained again on the same data."""

    def __init__(self, options: CheckpointOptions):
        self._interval = options.interval

    def replications(
        self, version: int, workers: Collection[Address]
    ) -> tuple[Mirror | Upload, ...]:
        if version % self._interval:
            return ()
        stages = sorted({worker.stage for worker in workers})
        owners = (min(w for w in workers if w.stage == stage) for stage in stages)
        return tuple(Upload(owner) for owner in owners)

    def repair(
        self, lost: frozenset[Address], view: View, refused: frozenset[Source]
    ) -> Repair | Refusal:
        bad = {source.version for source in refused if source.holder == STORE}
        good = [version for version in view.checkpoints if version not in bad]
        if not good:
            stages = ", ".join(map(str, wholly_lost(lost, view)))
            tried = f"all of {sorted(bad)} are damaged" if bad else "none was complete yet"
            return Refusal(
                f"stage {stages} is lost and there is no good checkpoint: {tried}; "
                "replicas=2 or a smaller recovery.interval would have helped"
            )
        version = max(good)
        return Repair(
            {
                seat: Recipe(CHECKPOINT, (Source(STORE, seat.stage, version),))
                for seat in sorted(view.seats)
            },
            version,
        )

    def rebuild(
        self, seat: Address, fresh: Fresh, states: Mapping[Source, StageState]
    ) -> Rebuilding:
        (state,) = states.values()
        return Rebuilding(state)

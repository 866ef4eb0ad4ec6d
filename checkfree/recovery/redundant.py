"""Redundant computation (Bamboo, NSDI 23): every stage also does its successor's forward and
holds its state, so that a lost stage is restored exactly by the one before it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

from checkfree.core.ops import (
    Address,
    Kind,
    Mirror,
    Op,
    Recipe,
    Refusal,
    Repair,
    Route,
    Schedule,
    Source,
    Upload,
    View,
)
from checkfree.messages.tensors import StageState
from checkfree.recovery.rungs import REDUNDANT_COPY
from checkfree.recovery.strategy import Fresh, Rebuilding, Strategy, repair_each


class Redundant(Strategy):
    """The predecessor of a stage is the one before it on an in-order route; stage 0, whose head
    ends every route, is computed by the last body stage, too. Costs one forward more per microbatch
    and stage, and twice the memory. Adjacent losses are fatal."""

    def ops(self, schedule: Schedule, routes: tuple[Route, ...]) -> Schedule:
        redundant: dict[tuple[Address, Op], Op] = {}
        for microbatch, route in enumerate(routes):
            for hop in range(1, len(route)):
                after = Op(Kind.FORWARD, microbatch, hop - 1)
                redundant[route[hop - 1], after] = Op(Kind.REDUNDANT, microbatch, hop)
        wider: dict[Address, list[Op]] = defaultdict(list)
        for worker, ops in schedule.items():
            for op in ops:
                wider[worker].append(op)
                if (worker, op) in redundant:
                    wider[worker].append(redundant[worker, op])
        return {worker: tuple(ops) for worker, ops in wider.items()}

    def replications(
        self, version: int, workers: Collection[Address]
    ) -> tuple[Mirror | Upload, ...]:
        count = 1 + max(worker.stage for worker in workers)
        found = []
        for holder in sorted(workers):
            successors = sorted(w for w in workers if w.stage == (holder.stage + 1) % count)
            twin = [w for w in successors if w.replica == holder.replica]
            found.append(Mirror((twin or successors)[0], holder))
        return tuple(found)

    def repair(
        self, lost: frozenset[Address], view: View, refused: frozenset[Source]
    ) -> Repair | Refusal:
        return repair_each(lost, view, lambda stage: _recipe(stage, view, refused))

    def rebuild(
        self, seat: Address, fresh: Fresh, states: Mapping[Source, StageState]
    ) -> Rebuilding:
        (state,) = states.values()
        return Rebuilding(state)


def _recipe(stage: int, view: View, refused: frozenset[Source]) -> Recipe | Refusal:
    held = [source for source in view.held(stage) if source not in refused]
    if view.held(stage) and not held:
        return Refusal(
            f"stage {stage} is lost and its redundant copy is no good: recovery=checkpoint or "
            "replicas=2 would have helped"
        )
    if not held:
        before = (stage - 1) % view.num_stages
        return Refusal(
            f"stages {before} and {stage} are lost together and {before} held the only copy of "
            f"{stage}: recovery=checkpoint or replicas=2 would have helped"
        )
    return Recipe(REDUNDANT_COPY, (held[0],))

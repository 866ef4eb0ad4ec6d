"""CheckFree+: swapped microbatches give the first and last stage a stand-in, and embeddings are
kept on both of their neighbours."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from checkfree.core.ops import (
    Address,
    Mirror,
    Recipe,
    Refusal,
    Repair,
    Route,
    Source,
    Upload,
    View,
)
from checkfree.messages.tensors import StageState
from checkfree.pipeline.routes import neighbours, swap_partner, swapped
from checkfree.recovery.average import Inexact, average_states
from checkfree.recovery.checkfree import PAPER_LR_SCALE, CheckFree
from checkfree.recovery.checkfree import made as checkfree
from checkfree.recovery.options import CheckFreePlusOptions
from checkfree.recovery.rungs import EMBEDDING_COPY
from checkfree.recovery.strategy import Fresh, Rebuilding, Strategy, repair_each


class CheckFreePlus(Strategy):
    """All is Not Lost (arXiv 2506.15461), section on CheckFree+.

    A lost edge becomes its swap partner's copy, S2 and S(n-1) a copy or the average by
    ``partner``, the rest CheckFree's average; stage 0 is restored exactly (semantics 14).
    """

    def __init__(self, average: CheckFree, how: Inexact, share: float = 0.5, partner: str = "copy"):
        self._average, self._how = average, how
        self._share, self._partner = share, partner

    def routes(self, routes: tuple[Route, ...]) -> tuple[Route, ...]:
        return swapped(routes, self._share)

    def replications(
        self, version: int, workers: Collection[Address]
    ) -> tuple[Mirror | Upload, ...]:
        last = max(worker.stage for worker in workers)
        owner = min(worker for worker in workers if worker.stage == 0)
        holders = (min(w for w in workers if w.stage == stage) for stage in (1, last))
        return tuple(Mirror(owner, holder) for holder in holders)

    def repair(
        self, lost: frozenset[Address], view: View, refused: frozenset[Source]
    ) -> Repair | Refusal:
        return repair_each(lost, view, lambda stage: self._recipe(stage, view, refused))

    def _recipe(self, stage: int, view: View, refused: frozenset[Source]) -> Recipe | Refusal:
        if stage == 0:
            return _embedding(view, refused)
        last = view.num_stages - 1
        partner = swap_partner(stage, last)
        at_edge = len(neighbours(stage, last)) < 2
        if partner is not None and (at_edge or self._partner == "copy"):
            return _copy(stage, partner, view, refused, self._how.moments)
        return self._average.recipe(stage, view, refused)

    def rebuild(
        self, seat: Address, fresh: Fresh, states: Mapping[Source, StageState]
    ) -> Rebuilding:
        if len(states) == 1:
            return Rebuilding(average_states(list(states.values()), (1.0,), self._how), (1.0,))
        return self._average.rebuild(seat, fresh, states)


def _embedding(view: View, refused: frozenset[Source]) -> Recipe | Refusal:
    held = [source for source in view.held(0) if source not in refused]
    if view.held(0) and not held:
        return Refusal(
            "stage 0 is lost and every copy of it is no good: recovery=checkpoint or replicas=2 "
            "would have helped"
        )
    if not held:
        return Refusal(
            "stage 0 is lost together with both holders of its copy (the first and last body "
            "stage): recovery=checkpoint or replicas=2 would have helped"
        )
    return Recipe(EMBEDDING_COPY, (held[0],))


def _copy(
    stage: int, partner: int, view: View, refused: frozenset[Source], moments: bool
) -> Recipe | Refusal:
    holder = view.living(partner)
    if holder is None:
        return Refusal(
            f"stages {min(stage, partner)} and {max(stage, partner)} are swap partners and lost "
            "together: recovery=checkpoint or replicas=2 would have helped"
        )
    source = Source(holder, partner, view.committed)
    if source in refused:
        return Refusal(
            f"stage {stage} is lost and its swap partner's state proved no good: "
            "recovery=checkpoint or replicas=2 would have helped"
        )
    return Recipe("partner copy", (source,), moments)


def made(options: CheckFreePlusOptions) -> CheckFreePlus:
    """As configured."""
    how = Inexact.of(options, PAPER_LR_SCALE)
    return CheckFreePlus(checkfree(options), how, options.share, options.partner)

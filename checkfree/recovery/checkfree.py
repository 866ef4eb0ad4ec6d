"""CheckFree: a lost stage becomes the gradient-weighted average of its two neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from checkfree.core.ops import Address, Recipe, Refusal, Repair, Source, View
from checkfree.messages.tensors import StageState
from checkfree.pipeline.routes import neighbours
from checkfree.recovery.average import Inexact, average_states, gradient_weights
from checkfree.recovery.options import CheckFreeOptions
from checkfree.recovery.rungs import WEIGHTED
from checkfree.recovery.strategy import Fresh, Rebuilding, Strategy, repair_each

PAPER_LR_SCALE = 1.1
"""Learning rate of a rebuilt stage over the schedule's (arXiv 2506.15461)."""


class CheckFree(Strategy):
    """All is Not Lost: LLM Recovery without Checkpoints (arXiv 2506.15461), algorithm 1.

    ``exponent`` and ``after_clipping`` say how ω, a neighbour's last gradient norm, weighs.
    """

    def __init__(self, how: Inexact, exponent: float = 2.0, *, after_clipping: bool = False):
        self._how, self._exponent, self._after_clipping = how, exponent, after_clipping

    def repair(
        self, lost: frozenset[Address], view: View, refused: frozenset[Source]
    ) -> Repair | Refusal:
        return repair_each(lost, view, lambda stage: self.recipe(stage, view, refused))

    def recipe(self, stage: int, view: View, refused: frozenset[Source]) -> Recipe | Refusal:
        """For one lost stage, or why there is none."""
        return average_recipe(Recipe(WEIGHTED, (), self._how.moments), stage, view, refused)

    def rebuild(
        self, seat: Address, fresh: Fresh, states: Mapping[Source, StageState]
    ) -> Rebuilding:
        sources = list(states.values())
        weights = gradient_weights(sources, self._exponent, after_clipping=self._after_clipping)
        return Rebuilding(average_states(sources, weights, self._how), weights)


def average_recipe(
    recipe: Recipe, stage: int, view: View, refused: frozenset[Source]
) -> Recipe | Refusal:
    """``recipe`` with both living neighbours of a body stage, or why there are not two."""
    last = view.num_stages - 1
    if stage == 0:
        return Refusal(
            "stage 0 (embedding and head) is lost and has no like neighbour to average: "
            "recovery=checkfree_plus keeps exact copies of it, checkpoint and redundant restore it"
        )
    sides = neighbours(stage, last)
    if len(sides) < 2:
        return Refusal(
            f"stage {stage} is lost and stands at the edge of stages 1 … {last}, so it has one "
            "neighbour and averaging needs two: recovery=checkfree_plus recovers edges, and "
            "failures.stages=middle spares them"
        )
    pair = []
    for side in sides:
        holder = view.living(side)
        if holder is None:
            return Refusal(
                f"stages {min(stage, side)} and {max(stage, side)} are lost together and stage "
                f"{stage} needs both neighbours: recovery=checkpoint or replicas=2 would help"
            )
        pair.append(Source(holder, side, view.committed))
    if set(pair) & refused:
        return Refusal(
            f"stage {stage} is lost and a neighbour's state proved no good: recovery=checkpoint or "
            "replicas=2 would have helped"
        )
    return replace(recipe, sources=tuple(pair))


def made(options: CheckFreeOptions) -> CheckFree:
    """As configured."""
    how = Inexact.of(options, PAPER_LR_SCALE)
    return CheckFree(how, options.exponent, after_clipping=options.gradient == "after")

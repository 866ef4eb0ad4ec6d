"""Rules to set beside CheckFree's: what does its average bring over something simpler?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch

from checkfree.core.ops import Address, Recipe, Refusal, Repair, Source, View
from checkfree.messages.tensors import StageState
from checkfree.pipeline.routes import neighbours
from checkfree.recovery.average import Inexact, average_states
from checkfree.recovery.checkfree import average_recipe
from checkfree.recovery.options import InexactOptions
from checkfree.recovery.strategy import Fresh, Rebuilding, Strategy, repair_each, wholly_lost


class Reinit(Strategy):
    """A lost stage starts from random weights (``random``) or from zeros (``zero``), which a
    residual block passes by. Needs nobody, so any loss can be repaired."""

    def __init__(self, rule: Literal["random", "zero"], how: Inexact):
        self._rule, self._how = rule, how

    def repair(
        self, lost: frozenset[Address], view: View, refused: frozenset[Source]
    ) -> Repair | Refusal:
        stages = wholly_lost(lost, view)
        if self._rule == "zero" and 0 in stages:
            return Refusal(
                "stage 0 (embedding and head) is lost and would output nothing but zeros under "
                "recovery=zero: recovery=random starts it anew, checkfree_plus restores it"
            )
        recipe = Recipe(self._rule)
        return Repair({s: recipe for s in lost if s.stage in stages}, view.committed)

    def rebuild(
        self, seat: Address, fresh: Fresh, states: Mapping[Source, StageState]
    ) -> Rebuilding:
        state = replace(fresh(), lr_scale=self._how.lr_scale)
        if self._rule == "zero":
            zeros = {name: torch.zeros_like(param) for name, param in state.params.items()}
            state = replace(state, params=zeros)
        return Rebuilding(state)


class CopyPrevious(Strategy):
    """A lost stage becomes a copy of the previous one; the first body stage, of the next."""

    def __init__(self, how: Inexact):
        self._how = how

    def repair(
        self, lost: frozenset[Address], view: View, refused: frozenset[Source]
    ) -> Repair | Refusal:
        return repair_each(lost, view, lambda stage: self._recipe(stage, view, refused))

    def _recipe(self, stage: int, view: View, refused: frozenset[Source]) -> Recipe | Refusal:
        source = None if stage == 0 else _beside(stage, view)
        if source is None or source in refused:
            state = "is not there" if source is None else "has no good state"
            return Refusal(
                f"stage {stage} is lost and the stage that recovery=copy would copy {state}: "
                "recovery=checkpoint or replicas=2 would have helped"
            )
        return Recipe("copy", (source,), self._how.moments)

    def rebuild(
        self, seat: Address, fresh: Fresh, states: Mapping[Source, StageState]
    ) -> Rebuilding:
        return Rebuilding(average_states(list(states.values()), (1.0,), self._how), (1.0,))


def _beside(stage: int, view: View) -> Source | None:
    sides = neighbours(stage, view.num_stages - 1)
    holder = view.living(sides[0]) if sides else None
    return None if holder is None else Source(holder, holder.stage, view.committed)


class Uniform(Strategy):
    """The plain mean of both neighbours: CheckFree without its weights."""

    def __init__(self, how: Inexact):
        self._how = how

    def repair(
        self, lost: frozenset[Address], view: View, refused: frozenset[Source]
    ) -> Repair | Refusal:
        recipe = Recipe("uniform average", (), self._how.moments)
        return repair_each(lost, view, lambda stage: average_recipe(recipe, stage, view, refused))

    def rebuild(
        self, seat: Address, fresh: Fresh, states: Mapping[Source, StageState]
    ) -> Rebuilding:
        weights = (1 / len(states),) * len(states)
        return Rebuilding(average_states(list(states.values()), weights, self._how), weights)


def random(options: InexactOptions) -> Reinit:
    """As configured."""
    return Reinit("random", Inexact.of(options))


def zero(options: InexactOptions) -> Reinit:
    """As configured."""
    return Reinit("zero", Inexact.of(options))


def copy(options: InexactOptions) -> CopyPrevious:
    """As configured."""
    return CopyPrevious(Inexact.of(options))


def uniform(options: InexactOptions) -> Uniform:
    """As configured."""
    return Uniform(Inexact.of(options))

"""A rule of one's own for a lost stage, in one file, beside ours; in the folder of this file:

    checkfree compare demo --strategies checkfree,own_strategy:Mix failures.stages=middle

Its fields are its options, as in 'own_strategy:Mix(before=0.7)'. What a strategy is asked, and
what the words below mean, stands in checkfree/recovery/strategy.py and checkfree/core/ops.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from checkfree import (
    Address,
    Fresh,
    Rebuilding,
    Recipe,
    Refusal,
    Repair,
    Source,
    StageState,
    Strategy,
    View,
    average_states,
    neighbours,
    repair_each,
)


@dataclass(frozen=True)
class Mix(Strategy):
    """A lost body stage becomes a mix of its neighbours, whatever their gradients: ``before`` is
    the share, in [0, 1], of the one before it. The first and the last copy their only one."""

    before: float = 0.5

    def repair(
        self, lost: frozenset[Address], view: View, refused: frozenset[Source]
    ) -> Repair | Refusal:
        """A plan: plain data, made by the lead."""
        return repair_each(lost, view, lambda stage: self._recipe(stage, view, refused))

    def _recipe(self, stage: int, view: View, refused: frozenset[Source]) -> Recipe | Refusal:
        beside = neighbours(stage, view.num_stages - 1) if stage else ()
        living = [seat for side in beside if (seat := view.living(side)) is not None]
        sources = tuple(Source(seat, seat.stage, view.committed) for seat in living)
        if len(sources) < len(beside) or not sources or set(sources) & refused:
            return Refusal(f"stage {stage} is lost, and not all of its like beside it live")
        return Recipe("mix", sources, moments=False)

    def rebuild(
        self, seat: Address, fresh: Fresh, states: Mapping[Source, StageState]
    ) -> Rebuilding:
        """The new state, from those of the recipe's sources: made where the stage will be."""
        weights = (self.before, 1 - self.before) if len(states) == 2 else (1.0,)
        return Rebuilding(average_states(list(states.values()), weights), weights)

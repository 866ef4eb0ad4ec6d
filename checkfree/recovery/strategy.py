"""The protocol of a recovery strategy, whole.

All but ``rebuild`` make plain data, so a strategy never sends, waits, or knows which runtime it
is in; what it stores and moves can be priced without running it. Imports no torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
from checkfree.recovery.fit.activations import BufferLimits
from checkfree.recovery.replay.terms import ReplayTerms

if TYPE_CHECKING:
    from checkfree.messages.tensors import StageState

Fresh = Callable[[], "StageState"]
"""Makes the seat's stage anew from (seed, "reinit", stage, tick); costs nothing if not called."""


@dataclass(frozen=True)
class Rebuilding:
    """What a seat becomes, and how much each source weighed in it."""

    state: StageState
    weights: tuple[float, ...] = ()


class Strategy(ABC):
    """What is kept, what a loss is repaired from, and what is made of it."""

    def routes(self, routes: tuple[Route, ...]) -> tuple[Route, ...]:
        """The routes that training takes, from those in order."""
        return routes

    def ops(self, schedule: Schedule, routes: tuple[Route, ...]) -> Schedule:
        """The schedule that training runs; a strategy may add ops of its own."""
        return schedule

    def replications(
        self, version: int, workers: Collection[Address]
    ) -> tuple[Mirror | Upload, ...]:
        """What is put aside of the state after ``version`` iterations, where, and when."""
        return ()

    def shadows(self, view: View) -> tuple[Transfer, ...]:
        """What is pushed to other seats, in the background, when the step to come is committed."""
        return ()

    def warmup_start(self, stage: int, num_stages: int, at: int, microbatches: int) -> int:
        """The iteration from which it has to run to have, at iteration ``at``, all that it would
        have of a stage if it had always run: for what isn't an exact copy, or a checkpoint."""
        return at

    @property
    def activation_buffer(self) -> BufferLimits:
        """For the last iterations' activations, which each seat holds on to for a rebuild."""
        return BufferLimits()

    @property
    def replays(self) -> ReplayTerms | None:
        """How exact copies and logs are kept for replays of lost stages; None: they are not."""
        return None

    @abstractmethod
    def repair(
        self, lost: frozenset[Address], view: View, refused: frozenset[Source]
    ) -> Repair | Refusal:
        """From what to rebuild the ``lost`` seats. ``refused``: sources that proved no good."""

    @abstractmethod
    def rebuild(
        self, seat: Address, fresh: Fresh, states: Mapping[Source, StageState]
    ) -> Rebuilding:
        """The seat's new state, from what trains of its recipe's sources, as real floating point
        numbers; what comes of it is cast to the stage's types. Pure tensors."""


def wholly_lost(lost: Collection[Address], view: View) -> tuple[int, ...]:
    """The stages that have no living replica left."""
    return tuple(sorted({seat.stage for seat in lost} - {seat.stage for seat in view.alive}))


def taken_whole(stage: int, states: Mapping[Source, StageState]) -> bool:
    """They are of the very ``stage``, with all that it was: the first becomes it, as it is."""
    return bool(states) and all(s.of == stage and not state.packed for s, state in states.items())


def repair_each(
    lost: Collection[Address], view: View, recipe_of: Callable[[int], Recipe | Refusal]
) -> Repair | Refusal:
    """One recipe per wholly lost stage, for all of its seats; nothing is rolled back."""
    recipes: dict[Address, Recipe] = {}
    for stage in wholly_lost(lost, view):
        recipe = recipe_of(stage)
        if isinstance(recipe, Refusal):
            return recipe
        recipes |= {seat: recipe for seat in lost if seat.stage == stage}
    return Repair(recipes, view.committed)

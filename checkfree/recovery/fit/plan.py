"""What the neighbours of a lost stage still hold: its last inputs and outputs, to fit it to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from checkfree.core.ops import Address, Recipe, Refusal, Route, View
from checkfree.pipeline.routes import beside_on_routes, in_order, revisiting
from checkfree.recovery.options import FitOptions

MICROBATCHES = 64
"""Routes that are looked at to see who is beside whom."""

Swap = Callable[[tuple[Route, ...]], tuple[Route, ...]]


@dataclass(frozen=True)
class Fitting:
    """``steps`` local steps on what seats hold of the last iterations in ``memory`` bytes each."""

    steps: int = 128
    memory: int = 2**26
    most: int = 32
    """Pairs that a seat sends at most."""

    @classmethod
    def of(cls, options: FitOptions) -> Fitting:
        """As configured."""
        return cls(options.fit_steps, options.fit_memory)

    def fitted(self, recipe: Recipe, seats: tuple[Address, ...]) -> Recipe:
        """``recipe``, fitted to all that ``seats`` hold."""
        return replace(recipe, boundary=seats, pairs=self.pairs, fit=self.steps)

    @property
    def pairs(self) -> int:
        """No more than there are steps."""
        return min(self.most, self.steps)

    def reaches_back(self, microbatches: int) -> int:
        """Iterations that as many pairs come of."""
        return -(-self.pairs // microbatches)


def witnesses(stage: int, view: View, routes: Swap) -> tuple[Address, ...] | Refusal:
    """The living seats that may hold inputs and outputs of a body stage, or why none do: it takes
    one before it and one after it."""
    plain = in_order([Address(s) for s in range(view.num_stages)], MICROBATCHES)
    before, after = beside_on_routes(stage, revisiting(routes(plain), view.chunks))
    if not before:
        return Refusal(f"stage {stage} has no inputs and outputs that others hold")
    alive = sorted(view.alive)
    one, other = ([a for a in alive if a.stage in side] for side in (before, after))
    if not one or not other:
        return Refusal("a neighbour is lost with what it held of inputs and outputs")
    return tuple(sorted({*one, *other}))

"""A ladder: per lost stage the best rule that is possible, checked before it counts.

Its rungs stand in ``rungs.py``, in their order. ``shadow`` and ``fit`` are shorter ladders of the
same rungs. A rung that was tried for these losses and proved no good is in ``View.rejected``, and
is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from checkfree.core.formats import SIGNS
from checkfree.core.ops import (
    Address,
    Mirror,
    Recipe,
    Refusal,
    Repair,
    Route,
    Rung,
    Source,
    Transfer,
    Upload,
    View,
)
from checkfree.messages.tensors import StageState
from checkfree.pipeline.routes import swap_partner, swapped
from checkfree.recovery.average import Inexact
from checkfree.recovery.fit.activations import BufferLimits
from checkfree.recovery.fit.plan import Fitting, witnesses
from checkfree.recovery.interpolate import (
    between_recipe,
    interpolate,
    nearest_recipe,
)
from checkfree.recovery.options import (
    SHADOW_FORMATS,
    AutoOptions,
    FitOptions,
    ShadowOptions,
    WeightedOptions,
)
from checkfree.recovery.replay.plan import back_to_wave, replays_of_some
from checkfree.recovery.replay.terms import ReplayTerms
from checkfree.recovery.rungs import FITTED, NEAREST, PARTNER, SHADOW, WEIGHTED
from checkfree.recovery.shadow.plan import Pushing, restart, shadow_recipe
from checkfree.recovery.strategy import (
    Fresh,
    Rebuilding,
    Strategy,
    repair_each,
    taken_whole,
)

PROBES = 2
"""Inputs and outputs that a rung is checked on if it isn't fitted to more of them."""

WORST = {SHADOW: 1.0, PARTNER: 2.0}
"""Error on them that is accepted, over that of leaving the stage out. A fit must not be worse than
what it began with. What comes last is taken if it is finite: there is nothing better."""

RungOf = Callable[[int, View, frozenset[Source]], Recipe | Refusal]


@dataclass(frozen=True)
class Rules:
    """What ladders are configured by."""

    how: Inexact = Inexact()  # noqa: RUF009 (frozen)
    exponent: float = 2.0
    pushing: Pushing | None = None
    reach: float = 0.0
    """Times its age that a shadow is moved on."""
    fitting: Fitting | None = None
    checked: bool = False
    share: float | None = None
    """Of the microbatches that run swapped; None: none do."""
    replaying: ReplayTerms | None = None
    """How logs and copies are kept for replays; None: they are not."""
    most_rollback: int = 0
    """Iterations that all may go back instead, to the last copies."""


class Ladder(Strategy):
    """``rungs`` names them, best first."""

    def __init__(self, rungs: Sequence[str], rules: Rules):
        self._rungs, self._rules = tuple(rungs), rules
        made: dict[str, RungOf] = {
            SHADOW: self._shadow,
            PARTNER: self._partner,
            FITTED: self._fitted,
            NEAREST: self._nearest,
            WEIGHTED: self._between,
        }
        self._of = {rule: made[rule] for rule in rungs}

    def routes(self, routes: tuple[Route, ...]) -> tuple[Route, ...]:
        share = self._rules.share
        return routes if share is None else swapped(routes, share)

    def shadows(self, view: View) -> tuple[Transfer, ...]:
        """Also while all could be replayed: a stage that is lost with the holder of its copy has
        its shadow left, and that is to be no older than usual."""
        pushing = self._rules.pushing
        return () if pushing is None else pushing.transfers(view)

    def warmup_start(self, stage: int, num_stages: int, at: int, microbatches: int) -> int:
        pushing, fitting = self._rules.pushing, self._rules.fitting
        before = at if fitting is None else at - fitting.reaches_back(microbatches)
        return before if pushing is None else pushing.warmup_start(stage, num_stages, at, before)

    @property
    def replays(self) -> ReplayTerms | None:
        return self._rules.replaying

    @property
    def activation_buffer(self) -> BufferLimits:
        fitting = self._rules.fitting
        return BufferLimits() if fitting is None else BufferLimits(fitting.memory, fitting.pairs)

    def replications(
        self, version: int, workers: Collection[Address]
    ) -> tuple[Mirror | Upload, ...]:
        return ()

    def repair(
        self, lost: frozenset[Address], view: View, refused: frozenset[Source]
    ) -> Repair | Refusal:
        if self.replays is not None:
            exact = replays_of_some(lost, view, refused)
            if isinstance(exact, Repair):
                return exact  # what is left is rebuilt then, with these beside it
            most = self._rules.most_rollback
            if most and isinstance(back := back_to_wave(view, most, refused), Repair):
                return back
        return repair_each(lost, view, lambda stage: self._best(stage, view, refused))

    def rebuild(
        self, seat: Address, fresh: Fresh, states: Mapping[Source, StageState]
    ) -> Rebuilding:
        rules = self._rules
        if taken_whole(seat.stage, states):
            return Rebuilding(next(iter(states.values())), (1.0,))
        if all(source.of == seat.stage for source in states):
            return restart(next(iter(states.values())), rules.how.lr_scale)
        return interpolate(seat.stage, states, rules.how, rules.exponent)

    # --- rungs -----------------------------------------------------------------------------------

    def _best(self, stage: int, view: View, refused: frozenset[Source]) -> Recipe | Refusal:
        reasons = []
        for rule, recipe_of in self._of.items():
            if Rung(stage, rule) in view.rejected:
                reasons.append(f"{rule}: tried, and no good")
                continue
            recipe = recipe_of(stage, view, refused)
            if isinstance(recipe, Recipe):
                return recipe
            reasons.append(f"{rule}: {recipe.reason}")
        return Refusal(
            f"stage {stage} is lost and nothing can stand in for it ({'; '.join(reasons)}): "
            "checkpoint.every or replicas=2 would have helped"
        )

    def _shadow(self, stage: int, view: View, refused: frozenset[Source]) -> Recipe | Refusal:
        return self._checked(shadow_recipe(stage, view, refused, self._rules.reach), stage, view)

    def _partner(self, stage: int, view: View, refused: frozenset[Source]) -> Recipe | Refusal:
        if self._rules.share is None or stage == 0:
            return Refusal("no microbatch runs swapped")
        partner = swap_partner(stage, view.num_stages - 1)
        holder = None if partner is None else view.living(partner)
        if partner is None or holder is None:
            return Refusal("it has no living partner")
        source = Source(holder, partner, view.committed)
        if source in refused:
            return Refusal("its partner is no good")
        recipe = Recipe(PARTNER, (source,), self._rules.how.moments)
        return self._checked(recipe, stage, view)

    def _fitted(self, stage: int, view: View, refused: frozenset[Source]) -> Recipe | Refusal:
        recipe, seats = self._nearest(stage, view, refused), witnesses(stage, view, self.routes)
        if isinstance(recipe, Refusal):
            return recipe
        if isinstance(seats, Refusal):
            return seats
        assert self._rules.fitting is not None
        return self._rules.fitting.fitted(replace(recipe, rule=FITTED), seats)

    def _nearest(self, stage: int, view: View, refused: frozenset[Source]) -> Recipe | Refusal:
        return nearest_recipe(NEAREST, stage, view, refused, moments=self._rules.how.moments)

    def _between(self, stage: int, view: View, refused: frozenset[Source]) -> Recipe | Refusal:
        return between_recipe(WEIGHTED, stage, view, refused, moments=self._rules.how.moments)

    def _checked(self, recipe: Recipe | Refusal, stage: int, view: View) -> Recipe | Refusal:
        """With a few inputs and outputs to judge the result by, where there are any."""
        if isinstance(recipe, Refusal) or not self._rules.checked or self._rules.fitting is None:
            return recipe
        seats = witnesses(stage, view, self.routes)
        if isinstance(seats, Refusal):
            return recipe
        return replace(recipe, boundary=seats, pairs=PROBES, bound=WORST[recipe.rule])


# --- as configured -------------------------------------------------------------------------------


def shadow(options: ShadowOptions) -> Ladder:
    """Shadows, then the average of the neighbours."""
    rules = replace(_rules(options), pushing=Pushing.of(options), reach=_reach(options))
    return Ladder((SHADOW, WEIGHTED), rules)


def fit(options: FitOptions) -> Ladder:
    """The average of the nearest, fitted."""
    return Ladder((FITTED, NEAREST), replace(_rules(options), fitting=Fitting.of(options)))


def auto(options: AutoOptions) -> Ladder:
    """All rungs, each checked."""
    rules = replace(
        _rules(options),
        pushing=Pushing.of(options),
        reach=_reach(options),
        fitting=Fitting.of(options),
        checked=True,
        share=options.share if options.swap else None,
        replaying=None if options.log_memory == 0 else ReplayTerms.of(options),
        most_rollback=options.most_rollback,
    )
    return Ladder((SHADOW, PARTNER, FITTED, NEAREST), rules)


def _rules(options: WeightedOptions) -> Rules:
    return Rules(how=Inexact.of(options), exponent=options.exponent)


def _reach(options: ShadowOptions) -> float:
    """Only changes say how a stage was moving."""
    return options.shadow_ahead if SHADOW_FORMATS[options.shadow_format] == SIGNS else 0.0

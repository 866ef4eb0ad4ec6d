"""A lost stage between the nearest stages that there are, however far they are."""

from __future__ import annotations

from collections.abc import Mapping

from checkfree.core.ops import Recipe, Refusal, Source, View
from checkfree.messages.tensors import StageState
from checkfree.pipeline.routes import neighbours
from checkfree.recovery.average import Inexact, average_states, gradient_weights, normalised
from checkfree.recovery.shadow.format import unpack_state
from checkfree.recovery.strategy import Rebuilding


def nearest(stage: int, view: View, refused: frozenset[Source]) -> tuple[Source, ...]:
    """The nearest body stage on each side of one that lives; where none does, the nearest that
    has a shadow."""
    found = []
    for side in (range(stage - 1, 0, -1), range(stage + 1, view.num_stages)):
        living = [Source(a, s, view.committed) for s in side if (a := view.living(s)) is not None]
        held = [
            Source(shadow.holder, s, shadow.version)
            for s in side
            for shadow in sorted(view.shadows)
            if shadow.stage == s
        ]
        found += [source for source in (*living, *held) if source not in refused][:1]
    return tuple(found)


def nearest_recipe(
    rule: str, stage: int, view: View, refused: frozenset[Source], *, moments: bool
) -> Recipe | Refusal:
    """Out of the nearest living stages, or why there are none."""
    if stage == 0:
        return Refusal("stage 0 (embedding and head) is like no other stage")
    sources = nearest(stage, view, refused)
    if not sources:
        any_left = nearest(stage, view, frozenset())
        return Refusal(f"no other body stage {'has a good state' if any_left else 'is left'}")
    return Recipe(rule, sources, moments)


def between_recipe(
    rule: str, stage: int, view: View, refused: frozenset[Source], *, moments: bool
) -> Recipe | Refusal:
    """Out of both direct neighbours, as CheckFree asks for, or why there aren't two."""
    if stage == 0:
        return Refusal("stage 0 (embedding and head) is like no other stage")
    sides = neighbours(stage, view.num_stages - 1)
    if len(sides) < 2:
        return Refusal("it stands at the edge and has one neighbour")
    holders = [view.living(side) for side in sides]
    pair = [Source(a, a.stage, view.committed) for a in holders if a is not None]
    if len(pair) < 2:
        return Refusal("a neighbour is lost too")
    if set(pair) & refused:
        return Refusal("a neighbour's state proved no good")
    return Recipe(rule, tuple(pair), moments)


def interpolate(
    stage: int, states: Mapping[Source, StageState], how: Inexact, exponent: float
) -> Rebuilding:
    """Between two direct neighbours CheckFree's weights; else each weighs by how near it is."""
    sources = list(states)
    states = {s: unpack_state(state) if state.packed else state for s, state in states.items()}
    if len(sources) == 1:
        return Rebuilding(average_states(list(states.values()), (1.0,), how), (1.0,))
    apart = [abs(source.of - stage) for source in sources]
    if set(apart) == {1}:
        weights = gradient_weights(list(states.values()), exponent)
    else:
        weights = normalised([1 / distance for distance in apart])
    return Rebuilding(average_states(list(states.values()), weights, how), weights)

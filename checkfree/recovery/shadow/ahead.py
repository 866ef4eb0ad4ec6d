"""A shadow, moved on: where its stage would be by now, had it gone on as it last changed.

    version    12            22 (its shadow)       29 (lost)
    weights     w - change    w                     w + 7/10 change

A shadow costs what its age costs (``experiments/catching_up``), and one that changes have made
comes with the last of them, so its age can be made up for. A straight line, so not for long.
"""

from __future__ import annotations

from dataclasses import replace

from checkfree.core.formats import FP32, in_rows
from checkfree.messages.tensors import StageState
from checkfree.recovery.shadow.format import pack_state, parts_of, unpack_state
from checkfree.recovery.shadow.signs import unpack_change

FARTHEST = 2.0
"""Times its last change that a shadow is moved on, at most."""


def moved_on(state: StageState, iterations: float) -> StageState:
    """Its weights, packed as fp32, so many iterations later; norms and biases, and all of a state
    that doesn't say how it was moving, as they are.

    Raises ValueError or RuntimeError for a change that is none of these weights.
    """
    if not state.heading or not iterations > 0:
        return state
    if state.since >= state.version:
        raise ValueError(f"version {state.version} as a change of version {state.since}")
    times = min(iterations / (state.version - state.since), FARTHEST)
    made, parts = unpack_state(state), parts_of(replace(state, params=state.heading))
    if odd := made.params.keys() ^ parts.keys():
        raise ValueError(f"a change of another stage: {min(odd)} is of one of the two")
    params = {
        name: was + times * unpack_change(parts[name], was.shape)
        if in_rows(tuple(was.shape))
        else was
        for name, was in made.params.items()
    }
    return pack_state(replace(made, params=params, heading={}, since=0), FP32)

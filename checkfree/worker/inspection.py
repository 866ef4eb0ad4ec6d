"""Whether a state that came from elsewhere may be used: it fits the stage, and is no nonsense.

One NaN or one absurd number in a neighbour's weights would be averaged into the rebuilt stage, end
the run some iterations later, and point at nobody. So whoever sent it is named before it is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from checkfree.core.ops import Source
from checkfree.messages.tensors import StageState
from checkfree.recovery.shadow.format import unpack_state
from checkfree.recovery.strategy import taken_whole
from checkfree.stage import Stage
from checkfree.stage.learnt import COMPUTED, in_types_of, without
from checkfree.stage.state_fit import strange_moment, unlike

MOST_RMS = 1e6
"""Of one parameter tensor that a stranger sent, in units of what ours began with, or of 1 where
that is less. Weights begin at a root mean square near 0.02 and gains at 1, and no training makes
either a million times as large."""


USUAL_RMS = 1e3
"""Of one parameter tensor of a run that goes well. Beyond that a forward may come to numbers that
no type holds."""


def may_be_too_far(stage: Stage) -> bool:
    """What ``stage`` has learnt is not finite, or so large that a forward has to tell."""
    learnt = (param for name, param in stage.params.items() if name not in stage.constants)
    return not all(_rms(param) <= USUAL_RMS for param in learnt)


def problems_of(
    states: Mapping[Source, StageState],
    stage: Stage,
    number: int,
    *,
    strangers: bool = True,
    summed: bool = False,
) -> dict[Source, str]:
    """Why each bad state can't be used to rebuild ``stage``, which is ``number``; without the good
    ones. ``strangers``, ``summed``: see ``problem_of``."""
    found = {}
    for source, state in states.items():
        try:
            whole = taken_whole(number, {source: state})
            seen = state if whole else _opened(without(state, stage.constants), stage)
            why = problem_of(seen, stage, strangers=strangers, summed=summed)
        except (ValueError, RuntimeError) as error:
            why = f"it can't be unpacked: {str(error).splitlines()[0]}"
        if why:
            found[source] = f"the state from {source}: {why}"
    return found


def problem_of(
    state: StageState, stage: Stage, *, strangers: bool = True, summed: bool = False
) -> str:
    """What is wrong with a state for ``stage``: the first thing found, or nothing. One line.
    ``strangers``: it may be anybody's, so absurdly large numbers are somebody's mistake. In one
    process they are what has trained. ``summed``: a sum over its numbers will be asked for, so
    these are not read here."""
    params, buffers = stage.params, dict(stage.module.named_buffers())
    learnt = {name: tensor for name, tensor in state.params.items() if name not in stage.constants}
    fixed = {name: tensor for name, tensor in state.params.items() if name in stage.constants}
    if why := (
        unlike(state.params, params, stage.constants)
        or unlike(state.buffers, buffers, buffers)
        or strange_moment(state.moments, params)
    ):
        return why
    if summed:
        return ""
    # Read once where it is no nonsense, as nearly always: reading takes as long as a fast line.
    learnt = {name: tensor for name, tensor in learnt.items() if not _is_usual(tensor)}
    return (
        infinite(learnt)
        or _otherwise_infinite({**fixed, **state.buffers}, {**params, **buffers})
        or _no_numbers(state.moments)
        or (_absurd(learnt, params) if strangers else "")
    )


def _opened(state: StageState, stage: Stage) -> StageState:
    """As the stage would have it. Raises ValueError or RuntimeError for parts of nothing."""
    if not state.packed:
        return state
    made = unpack_state(state)
    return replace(made, params=in_types_of(stage.params, made.params))


def are_gradients(tensors: Mapping[str, Tensor], stage: Stage) -> bool:
    """Of parameters of ``stage``, each of its shape; some may have none."""
    return not unlike(tensors, stage.params, stage.params)


def infinite(tensors: Mapping[str, Tensor]) -> str:
    """The first that has a NaN or an inf, if any has."""
    for name, tensor in tensors.items():
        if not all_finite(tensor):
            return f"{name} is not finite"
    return ""


def all_finite(tensor: Tensor) -> bool:
    """No NaN or inf in it. One pass that writes nothing where a norm is finite, as nearly always:
    looking at each number writes and reads as much again several times over."""
    if tensor.dtype in COMPUTED:
        norm = torch.linalg.vector_norm(tensor.detach(), dtype=_wide(tensor))
        if bool(torch.isfinite(norm)):
            return True
    return bool(_finite(tensor).all())  # squares of finite numbers may be inf


def _otherwise_infinite(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """A constant may well be infinite, as masks are: where the stage's own is, too."""
    for name, tensor in tensors.items():
        if not all_finite(tensor):
            there = _finite(own[name]).to(tensor.device)
            if not torch.equal(_finite(tensor), there):
                return f"{name} is not finite where the stage's own is"
    return ""


def _no_numbers(moments: Mapping[str, Tensor]) -> str:
    """An inf may well be one: the square of a gradient that its type can't hold."""
    for name, moment in moments.items():
        if not all_finite(moment) and bool(moment.isnan().any()):
            return f"{name} is not finite"
    return ""


def _absurd(params: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    for name, param in params.items():
        most = MOST_RMS * max(1.0, _rms(own[name]))
        if not (rms := _rms(param)) <= most:
            return f"{name} has a root mean square of {rms:.3g}, expected at most {most:g}"
    return ""


def _is_usual(tensor: Tensor) -> bool:
    """All of it is finite, and not too large whatever the stage's own is."""
    return tensor.dtype in COMPUTED and _rms(tensor) <= MOST_RMS


def _rms(tensor: Tensor) -> float:
    norm = float(torch.linalg.vector_norm(tensor.detach(), dtype=_wide(tensor)))
    return norm / math.sqrt(max(1, tensor.numel()))


def _finite(tensor: Tensor) -> Tensor:
    """Where it is; of types of a byte, which torch can't ask."""
    eight = tensor.is_floating_point() and tensor.dtype not in COMPUTED
    return torch.isfinite(tensor.detach().float() if eight else tensor.detach())


def _wide(tensor: Tensor) -> torch.dtype:
    if tensor.is_complex():
        return tensor.dtype
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32

"""Whether a state that came from elsewhere may be used: it fits the stage, and is no nonsense.

One NaN or one absurd number in a neighbour's weights would be averaged into the rebuilt stage, end
the run some iterations later, and point at nobody. So whoever sent it is named before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from checkfree.core.ops import Source
from checkfree.messages.tensors import StageState
from checkfree.stage import Stage

MOST_RMS = 1e3
"""Of one parameter tensor. Weights begin at a root mean square near 0.02 and gains at 1; at this
size every softmax and every loss is long beyond repair, so no run that still trains has it."""


def problems_of(states: Mapping[Source, StageState], stage: Stage) -> dict[Source, str]:
    """Why each bad state can't be used to rebuild ``stage``; without the good ones."""
    told = {source: problem_of(state, stage) for source, state in states.items()}
    return {source: f"the state from {source}: {why}" for source, why in told.items() if why}


def problem_of(state: StageState, stage: Stage) -> str:
    """What is wrong with a state for ``stage``: the first thing found, or nothing. One line."""
    expected = dict(stage.module.named_parameters())
    return (
        _unlike(state.params, expected)
        or _unlike(state.buffers, dict(stage.module.named_buffers()), some=True)
        or _strange_moment(state.moments, expected)
        or _infinite({**state.params, **state.buffers, **state.moments})
        or _absurd(state.params)
    )


def are_gradients(tensors: Mapping[str, Tensor], stage: Stage) -> bool:
    """Of parameters of ``stage``, each of its shape; some may have none."""
    return not _unlike(tensors, dict(stage.module.named_parameters()), some=True)


def _unlike(
    got: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, some: bool = False
) -> str:
    """``some``: of what is expected, some may be absent."""
    odd = got.keys() - expected.keys() if some else got.keys() ^ expected.keys()
    if odd:
        name = min(odd)
        return f"{name} is {'unknown' if name in got else 'absent'}"
    for name, tensor in got.items():
        own = expected[name]
        if tensor.shape != own.shape or tensor.dtype != own.dtype:
            return f"{name} is {_kind(tensor)}, expected {_kind(own)}"
    return ""


def _strange_moment(moments: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    for key, moment in moments.items():
        name = key.rpartition("/")[0]
        if name not in expected or moment.shape not in ((), expected[name].shape):
            return f"the moment {key} {_kind(moment)} is of no parameter"
    return ""


def _infinite(tensors: Mapping[str, Tensor]) -> str:
    for name, tensor in tensors.items():
        if not all_finite(tensor):
            return f"{name} is not finite"
    return ""


def all_finite(tensor: Tensor) -> bool:
    """No NaN or inf in it. One pass that writes nothing where a norm is finite, as nearly always:
    looking at each number writes and reads as much again several times over."""
    if tensor.is_floating_point():
        norm = torch.linalg.vector_norm(tensor.detach(), dtype=_wide(tensor))
        if bool(torch.isfinite(norm)):
            return True
    return bool(torch.isfinite(tensor).all())  # squares of finite numbers may be inf


def _absurd(params: Mapping[str, Tensor]) -> str:
    for name, param in params.items():
        rms = float(torch.linalg.vector_norm(param.detach(), dtype=_wide(param)))
        rms /= max(1, param.numel()) ** 0.5
        if not rms <= MOST_RMS:
            return f"{name} has a root mean square of {rms:.3g}, expected at most {MOST_RMS:g}"
    return ""


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"

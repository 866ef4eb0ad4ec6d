"""A stage's weights as what changed since a holder was last told, and what the holder makes of it.

Owner and holder compute that with the same function, in fp32 and on the CPU, and round it alike, so
both have the same bits: the owner knows what is wrong with the holder's weights, and its next
change is of those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from checkfree.core.formats import SIGNS, in_rows
from checkfree.messages.quantize import VALUES
from checkfree.messages.tensors import StageState
from checkfree.recovery.shadow.format import pack_state, parts_of, unpack_state
from checkfree.recovery.shadow.references import HELD, WHOLE
from checkfree.recovery.shadow.signs import pack_change, unpack_change


def whole(state: StageState) -> StageState:
    """All of the weights, for a holder that has nothing that they could be a change of."""
    return pack_state(replace(state, params=_in_fp32(state)), WHOLE)


def is_base(base: StageState, state: StageState) -> bool:
    """It has the weights that ``state`` has, so that this can be a change of it."""
    return parts_of(base).keys() == state.params.keys()


def change(state: StageState, base: StageState) -> StageState:
    """The signs of what changed since ``base``, which ``held`` has made; norms and biases whole."""
    before = unpack_state(base).params
    parts = {
        f"{name}/{part}": written
        for name, now in _in_fp32(state).items()
        for part, written in _written(now, before[name]).items()
    }
    return replace(state, params=parts, buffers={}, moments={}, packed=SIGNS)


def held(sent: StageState, base: StageState | None) -> StageState:
    """What a holder of ``base`` (None: of nothing) has once ``sent`` has come: weights packed
    as ``HELD`` and the way that they went, that share no memory with either.

    Raises ValueError for what ``whole`` or ``change`` doesn't make, or makes of another stage.
    """
    expected = WHOLE if base is None else SIGNS
    if sent.packed != expected:
        raise ValueError(f"a shadow of {sent.packed or 'no format'}, expected {expected}")
    if base is None:
        made, heading, since = unpack_state(sent), {}, 0
    else:
        made, since = replace(sent, params=_changed(sent, base)), base.version
        heading = {name: part.clone() for name, part in sent.params.items()}
    return pack_state(replace(made, heading=heading, since=since, held={}), HELD)


def _in_fp32(state: StageState) -> dict[str, Tensor]:
    return {name: param.detach().to("cpu", torch.float32) for name, param in state.params.items()}


def _written(now: Tensor, before: Tensor) -> dict[str, Tensor]:
    if in_rows(tuple(now.shape)):
        return pack_change(now - before)
    return {VALUES: now.clone()}


def _changed(sent: StageState, base: StageState) -> dict[str, Tensor]:
    before, parts = unpack_state(base).params, parts_of(sent)
    if odd := before.keys() ^ parts.keys():
        raise ValueError(f"a change of another stage: {min(odd)} is of one of the two")
    return {name: _read(parts[name], was) for name, was in before.items()}


def _read(parts: Mapping[str, Tensor], before: Tensor) -> Tensor:
    if in_rows(tuple(before.shape)):
        return before + unpack_change(parts, before.shape)
    now = parts.get(VALUES)
    if len(parts) != 1 or now is None or (now.dtype, now.shape) != (before.dtype, before.shape):
        raise ValueError(f"expected values {before.dtype} {list(before.shape)}")
    return now

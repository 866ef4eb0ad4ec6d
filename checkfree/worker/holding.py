"""All that a seat holds for other stages, as a snapshot of ``--resume`` has it; and which versions
of its own stage others hold, so that it can go on to send changes of them. Those weights stand in
the snapshot once, with their holder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from checkfree.core.ops import Address, Source
from checkfree.messages.tensors import StageState
from checkfree.recovery.fit import boundary
from checkfree.recovery.fit.boundary import Crossed
from checkfree.recovery.shadow.holder import Shadows
from checkfree.recovery.shadow.references import References

SHADOWS, CROSSED, LEFT = "shadows/", "crossed/", "left/"


def flat(
    shadows: Shadows, crossed: Crossed, references: References[StageState]
) -> dict[str, Tensor]:
    """Tensors, by names that tell what they are."""
    left = {str(holder): torch.tensor(left.version) for holder, left in references.items()}
    parts = {SHADOWS: shadows.flat(), CROSSED: boundary.flat(crossed), LEFT: left}
    return {place + name: part for place, found in parts.items() for name, part in found.items()}


def take(shadows: Shadows, crossed: Crossed, held: Mapping[str, Tensor]) -> None:
    """Inverse of ``flat``, for a seat that holds nothing yet. Raises ValueError for names that it
    doesn't make."""
    shadows.take(_parts(held, SHADOWS))
    boundary.take(crossed, _parts(held, CROSSED))


def take_left(
    references: References[StageState],
    stage: int,
    own: Mapping[str, Tensor],
    held: Callable[[Address], Mapping[str, Tensor]],
) -> None:
    """The same for what a seat of ``stage`` knew of others, by what each ``held``. Raises
    ValueError."""
    for name, version in _parts(own, LEFT).items():
        holder, there = Address.parse(name), Shadows()
        there.take(_parts(held(holder), SHADOWS))
        state = there.read(Source(holder, stage, int(version)))
        if state is not None:  # else the holder was lost, and it will never count
            references.leave(holder, state.version, state)


def _parts(held: Mapping[str, Tensor], place: str) -> dict[str, Tensor]:
    found = {}
    for name, tensor in held.items():
        of = next((p for p in (CROSSED, LEFT) if name.startswith(p)), SHADOWS)
        if of == place:  # older snapshots name shadows without
            found[name.removeprefix(place)] = tensor
    return found

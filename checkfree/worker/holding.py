"""All that a seat holds for other stages, as a snapshot of ``--resume`` has it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from checkfree.worker import boundary
from checkfree.worker.boundary import Crossed
from checkfree.worker.shadows import Shadows

SHADOWS, CROSSED = "shadows/", "crossed/"


def flat(shadows: Shadows, crossed: Crossed) -> dict[str, Tensor]:
    """Tensors, by names that tell what they are."""
    parts = {SHADOWS: shadows.flat(), CROSSED: boundary.flat(crossed)}
    return {place + name: part for place, found in parts.items() for name, part in found.items()}


def take(shadows: Shadows, crossed: Crossed, held: Mapping[str, Tensor]) -> None:
    """Inverse of ``flat``, for a seat that holds nothing yet. Raises ValueError for names that it
    doesn't make."""
    parts: dict[str, dict[str, Tensor]] = {SHADOWS: {}, CROSSED: {}}
    for name, tensor in held.items():
        place = CROSSED if name.startswith(CROSSED) else SHADOWS  # older snapshots name shadows so
        parts[place][name.removeprefix(place)] = tensor
    shadows.take(parts[SHADOWS])
    boundary.take(crossed, parts[CROSSED])

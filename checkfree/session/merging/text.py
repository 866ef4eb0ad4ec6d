"""A run's validation text in two: what may choose the weights of an average, and what its loss is
told on. No sequence is in both, nor one that has the same tokens as one in the other."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from checkfree.core.errors import BadInput
from checkfree.worker import Batches


@dataclass(frozen=True)
class Parts:
    """Batches of sequences, int64 (at most the run's batch, context + 1)."""

    choosing: tuple[Tensor, ...]
    reporting: tuple[Tensor, ...]


def parted(validation: Batches, microbatches: int) -> Parts:
    """The first microbatches of a validation, the sequences of which go by the hash of their
    tokens: the lower half chooses, the upper half reports. Of equal ones only one is taken. No seed
    is involved, so whatever is merged, and by whichever rule, the same text reports. Raises
    BadInput if there are not two sequences that differ."""
    rows = [row for m in range(microbatches) for row in validation(0, m)]
    known = {identity(row): row for row in rows}
    if len(known) < 2:
        raise BadInput(
            f"the validation text has {len(known)} sequence to merge by, and one has to choose the "
            "weights, another one to report the loss: raise --microbatches, data.validation_share "
            "or the text"
        )
    ordered, half = [known[key] for key in sorted(known)], len(known) // 2
    size = len(validation(0, 0))
    return Parts(_batched(ordered[:half], size), _batched(ordered[half:], size))


def identity(sequence: Tensor) -> str:
    """What tells a sequence (context + 1) from any with other tokens: 16 hexadecimal digits."""
    tokens = sequence.to(torch.int64).contiguous().numpy()
    return hashlib.sha256(tokens.astype("<i8").tobytes()).hexdigest()[:16]


def identities(batches: Sequence[Tensor]) -> list[str]:
    """Of all sequences in them."""
    return [identity(row) for batch in batches for row in batch]


def sizes_of(batches: Sequence[Tensor]) -> list[int]:
    """Sequences of each: the last may have fewer."""
    return [len(batch) for batch in batches]


def _batched(rows: list[Tensor], size: int) -> tuple[Tensor, ...]:
    return tuple(torch.stack(rows[at : at + size]) for at in range(0, len(rows), size))

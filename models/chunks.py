"""What of a model's body each seat has: one chunk of layers, or two that lie apart. No torch.

A body of 2n chunks on n body stages, and how a microbatch goes through it (n = 3)::

    loop   stage s has chunks s and n + s          1 2 3 1 2 3     interleaved 1F1B (2104.04473)
    V      stage s has chunks s and 2n + 1 - s     1 2 3 3 2 1     V schedules (2405.15362)

So a stage's first chunk lies between those of the stages before and after it, and its second one as
well: what is averaged over neighbours by the names of parameters is averaged chunk by chunk.
"""

from __future__ import annotations

from enum import Enum


class Chunks(Enum):
    """Where the chunks of a body stage lie."""

    WHOLE = "whole"
    LOOP = "loop"
    V = "V"

    @property
    def count(self) -> int:
        """Chunks of a body stage: how often a microbatch visits it."""
        return 1 if self is Chunks.WHOLE else 2

    def of(self, stage: int, stages: int) -> tuple[int, ...]:
        """Numbers, from 1 on, of the chunks that body stage ``stage`` of ``stages`` has, in the
        order of the model."""
        match self:
            case Chunks.WHOLE:
                return (stage,)
            case Chunks.LOOP:
                return stage, stages + stage
            case Chunks.V:
                return stage, 2 * stages + 1 - stage

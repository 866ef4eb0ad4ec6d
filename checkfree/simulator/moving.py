"""What seats move out of memory between forward and backward, and what that takes and costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from checkfree.core.ops import Op
from checkfree.pipeline.stash import Carrier, Moves, choose_moves, peak_in_memory, waits
from checkfree.simulator.sizes import ComputePace, Sizes


@dataclass(frozen=True)
class Moving:
    """``bandwidth``: bytes per second each way; ``room``: bytes of a seat's stash that may stay,
    see :func:`checkfree.pipeline.stash.choose_moves`."""

    sizes: Sizes
    pace: ComputePace
    bandwidth: float
    room: int | None = None

    def chosen(self, stage: int, ops: Sequence[Op]) -> Moves:
        """For a seat's ops."""
        seconds, count = self.pace.at(stage, ops), self._count(stage)
        return choose_moves(ops, seconds, count, self.bandwidth, self.room)

    def peak(self, stage: int, ops: Sequence[Op], moves: Moves) -> int:
        """Bytes of the stash that are in a seat's memory at once, at most."""
        return peak_in_memory(ops, moves, self._count(stage))

    def waits(self, stage: int, ops: Sequence[Op], moves: Moves) -> float:
        """Seconds of an iteration, of a seat that waits for nothing else."""
        return waits(ops, moves, self.pace.at(stage, ops), self._carried(stage))

    def carrier(self, stage: int, ops: Sequence[Op]) -> Carrier:
        """Of a seat that moves what is chosen."""
        return Carrier(ops, self.chosen(stage, ops), self._carried(stage))

    def _count(self, stage: int) -> Callable[[int], int]:
        """Stage 0 holds tokens at its first hop, which is next to nothing."""
        whole = self.sizes.stash_at(stage)
        return lambda hop: whole if hop else 0

    def _carried(self, stage: int) -> Callable[[int], float]:
        count = self._count(stage)
        return lambda hop: count(hop) / self.bandwidth

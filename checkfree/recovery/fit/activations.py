"""What crossed the boundaries of a seat in the last iterations, within so many bytes. No tensors:
a worker keeps activations in it, a rehearsal their sizes, and both forget alike.

Nothing is kept that no rebuild would ask for: so all of it can stand in a snapshot, and a resumed
run forgets as one that never stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

Crossing = tuple[int, int, int]
"""(iteration, microbatch, hop that reads it): ascending is the order of time."""


@dataclass(frozen=True)
class BufferLimits:
    """What a seat holds on to: at most ``memory`` bytes, half of them each way, and of each stage
    and way the newest ``most``."""

    memory: int = 0
    most: int = 0


class _Entry(NamedTuple):
    stage: int
    item: object
    bytes: int


class Side(Generic[T]):
    """One direction: what a seat sent on, or what came to it, and to or from which stage."""

    def __init__(self, capacity: int, most: int):
        self._capacity, self._most, self._bytes = capacity, most, 0
        self._entries: dict[Crossing, _Entry] = {}
        self._of: Counter[int] = Counter()
        """Entries by stage."""

    def add(self, crossing: Crossing, stage: int, item: T, count: int) -> None:
        """File an item of ``count`` bytes; the oldest make room."""
        if self._capacity <= 0:
            return
        self._drop(crossing)  # of an iteration that is trained again
        self._entries[crossing] = _Entry(stage, item, count)
        self._bytes += count
        self._of[stage] += 1
        if self._of[stage] > self._most:
            self._drop(min(c for c, entry in self._entries.items() if entry.stage == stage))
        while self._bytes > self._capacity:
            self._drop(min(self._entries))

    def newest(self, stage: int, limit: int) -> list[tuple[Crossing, T]]:
        """The last ``limit`` items to or from a stage, in order of time."""
        found = sorted(c for c, entry in self._entries.items() if entry.stage == stage)
        return [(c, self._entries[c].item) for c in found[-limit:]] if limit else []  # type: ignore[misc]

    def items(self) -> Iterator[tuple[Crossing, int, T, int]]:
        """All of it, to or from which stage, and for how many bytes it counts, in order of time."""
        for crossing in sorted(self._entries):
            entry = self._entries[crossing]
            yield crossing, entry.stage, entry.item, entry.bytes  # type: ignore[misc]

    def merge(self, other: Side[T]) -> None:
        """Add all that ``other`` has."""
        for crossing, entry in other._entries.items():
            self.add(crossing, entry.stage, entry.item, entry.bytes)  # type: ignore[arg-type]

    def _drop(self, crossing: Crossing) -> None:
        entry = self._entries.pop(crossing, None)
        if entry is not None:
            self._bytes -= entry.bytes
            self._of[entry.stage] -= 1


class Ring(Generic[T]):
    """Both directions of a seat."""

    def __init__(self, limits: BufferLimits):
        self.limits = limits
        self.sent: Side[T] = Side(limits.memory // 2, limits.most)
        self.got: Side[T] = Side(limits.memory // 2, limits.most)

    @property
    def holds(self) -> bool:
        """There is room for anything."""
        return self.limits.memory > 0

    def merge(self, other: Ring[T]) -> None:
        """Add what crossed in an iteration that is now committed."""
        self.sent.merge(other.sent)
        self.got.merge(other.got)


def matches(inputs: dict[Crossing, T], outputs: dict[Crossing, T]) -> Iterator[tuple[T, T]]:
    """What went into a stage beside what came out of it, in order of time."""
    for iteration, microbatch, hop in sorted(inputs):
        after = (iteration, microbatch, hop + 1)
        if after in outputs:
            yield inputs[iteration, microbatch, hop], outputs[after]

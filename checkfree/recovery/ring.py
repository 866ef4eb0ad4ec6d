"""What crossed the boundaries of a seat in the last iterations, within so many bytes. No tensors:
a worker keeps activations in it, a rehearsal their sizes, and both forget alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

Crossing = tuple[int, int, int]
"""(iteration, microbatch, hop that reads it): ascending is the order of time."""


class _Entry(NamedTuple):
    stage: int
    item: object
    bytes: int


class Side(Generic[T]):
    """One direction: what a seat sent on, or what came to it, and to or from which stage."""

    def __init__(self, capacity: int):
        self._capacity, self._bytes = capacity, 0
        self._entries: dict[Crossing, _Entry] = {}

    def add(self, crossing: Crossing, stage: int, item: T, count: int) -> None:
        """File an item of ``count`` bytes; the oldest make room."""
        if self._capacity <= 0:
            return
        self._drop(crossing)  # of an iteration that is trained again
        self._entries[crossing] = _Entry(stage, item, count)
        self._bytes += count
        while self._bytes > self._capacity:
            self._drop(min(self._entries))

    def newest(self, stage: int, limit: int) -> list[tuple[Crossing, T]]:
        """The last ``limit`` items to or from a stage, in order of time."""
        found = sorted(c for c, entry in self._entries.items() if entry.stage == stage)
        return [(c, self._entries[c].item) for c in found[-limit:]] if limit else []  # type: ignore[misc]

    def merge(self, other: Side[T]) -> None:
        """Add all that ``other`` has."""
        for crossing, entry in other._entries.items():
            self.add(crossing, entry.stage, entry.item, entry.bytes)  # type: ignore[arg-type]

    def _drop(self, crossing: Crossing) -> None:
        entry = self._entries.pop(crossing, None)
        self._bytes -= 0 if entry is None else entry.bytes


class Ring(Generic[T]):
    """Both directions of a seat; each has half of ``memory``."""

    def __init__(self, memory: int):
        self.memory = memory
        self.sent: Side[T] = Side(memory // 2)
        self.got: Side[T] = Side(memory // 2)

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

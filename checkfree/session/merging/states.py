"""The states that a run has saved and an average is made of, and the average that is kept."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from checkfree.core.errors import BadInput
from checkfree.core.records import of_kind, read
from checkfree.messages.tensors import StageState
from checkfree.runtime.store import Damaged, Store, merged
from checkfree.session.merging.averages import Weights
from checkfree.session.saved import Saved, saved


def of_course(run: Path) -> list[Saved]:
    """The states in a run's folder, oldest first: of an iteration the one that is least to read,
    and none of a course that the run left when it went back."""
    ticks, found = _course(read(run)), dict[int, Saved]()
    for state in saved(run):
        if state.tick in ticks.get(state.iteration, ()):
            found.setdefault(state.iteration, state)
    return [found[iteration] for iteration in sorted(found)]


def _course(records: Sequence[Mapping[str, Any]]) -> dict[int, range]:
    """The ticks at which the run had committed so many iterations, on the course that it took in
    the end: more than one where it went back to them, for ticks only rise."""
    steps = [(0, 0)]
    for record in of_kind(records, "iteration"):
        while steps and steps[-1][0] > record["iteration"]:
            steps.pop()
        steps.append((record["iteration"] + 1, record["tick"] + 1))
    until = [tick for _, tick in steps[1:]] + [sys.maxsize]
    return {
        iteration: range(tick, end) for (iteration, tick), end in zip(steps, until, strict=True)
    }


def reader(run: Path, store: Store, state: Saved) -> Weights:
    """Of a state. Raises BadInput where it is damaged."""

    def load(stage: int) -> Mapping[str, Tensor]:
        try:
            return store.weights(stage, state.area, state.shelf)
        except Damaged as error:
            raise BadInput(f"{run}: {error}; remove its folder, and merge what is left") from None

    return load


def held(read: Weights, stages: int) -> Weights:
    """The same, all in memory."""
    states = [read(stage) for stage in range(stages)]
    return lambda stage: states[stage]


def keep(store: Store, name: str, weights: Weights, stages: int, note: Mapping[str, Any]) -> None:
    """Write an average into its run's folder, a stage at a time, whole or not at all; it takes the
    place of one of that name. Raises BadInput, RunFailed."""
    try:
        store.shelve(merged(name), 0, _Lazily(weights, stages), note)
    except BaseException:
        store.forget(merged(name), 0)
        raise


class _Lazily(Mapping[int, StageState]):
    """An archive's states, each made when it is written."""

    def __init__(self, weights: Weights, stages: int):
        self._weights, self._stages = weights, stages

    def __getitem__(self, stage: int) -> StageState:
        return StageState(self._weights(stage), {}, {}, 0)

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._stages))

    def __len__(self) -> int:
        return self._stages

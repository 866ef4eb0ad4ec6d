"""What a run has saved, found again: the state that it had after some iteration, of which final
weights, a snapshot or a checkpoint stand in its folder; or an average of such states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from checkfree.core.errors import BadInput
from checkfree.core.records import RECORDS, read
from checkfree.messages.control import AVERAGE, CHECKPOINT, RESUME, WEIGHTS
from checkfree.messages.tensors import StageState
from checkfree.runtime.files import DiskFiles
from checkfree.runtime.store import Damaged, Store, merged, weights_only

USER = "user"
"""How the data are called of runs that train a user's own modules."""

KINDS = {WEIGHTS: "weights", AVERAGE: "weights", CHECKPOINT: "checkpoint", RESUME: "snapshot"}
"""How what stands in each area is called; the last that there is of an iteration is taken, for it
has most in it."""

MERGED_NAME = "[A-Za-z][A-Za-z0-9_.-]{0,63}"
"""How an average may be called: no iteration, and no path."""


@dataclass(frozen=True)
class Saved:
    """A state that stands in a run's folder. Sorted, one has more in it than those before it of the
    same iteration."""

    iteration: int
    place: int
    """In KINDS."""
    shelf: int
    tick: int

    @property
    def area(self) -> str:
        """Of the store."""
        return list(KINDS)[self.place]

    @property
    def kind(self) -> str:
        """How that is called."""
        return KINDS[self.area]


def saved(run: Path) -> list[Saved]:
    """What a run's folder has whose manifest is good, ascending by iteration."""
    store, found = Store(DiskFiles(run)), set()
    for place, area in enumerate(KINDS):
        for shelf in (0,) if area == WEIGHTS else store.offered(area):
            try:
                progress = store.note(area, shelf)["progress"]
                found.add(Saved(int(progress["committed"]), place, shelf, int(progress["tick"])))
            except (Damaged, KeyError, TypeError, ValueError):
                continue
    return sorted(found, key=lambda state: (state.iteration, state.place, state.shelf))


@dataclass(frozen=True)
class SavedState:
    """All stages of a run after ``iteration`` iterations. ``told``: how what is wrong with it is
    told of; ``mend``: and how another one is asked for."""

    run: Path
    iteration: int
    area: str
    shelf: int
    began: Mapping[str, Any]
    """The first record of the run."""
    told: str
    mend: str

    @property
    def kind(self) -> str:
        """``weights``, ``checkpoint``, ``snapshot`` or ``average``."""
        return KINDS.get(self.area, "average")

    @property
    def stages(self) -> int:
        """Body stages."""
        return int(self.began["config"]["stages"])

    def load(self, stage: int) -> StageState:
        """A stage's. Where there are weights alone, parameters are among the buffers, too, and the
        other way round. Raises BadInput if it is damaged."""
        with damage_told(self.told, self.mend):
            if weights_only(self.area):
                tensors = self.weights(stage)
                return StageState(tensors, tensors, {}, self.iteration)
            return self._store.load(self.area, self.shelf, stage)

    def weights(self, stage: int) -> dict[str, Tensor]:
        """A stage's parameters and buffers, and nothing else in memory. Raises BadInput if it is
        damaged."""
        with damage_told(self.told, self.mend):
            return self._store.weights(stage, self.area, self.shelf)

    def digest(self) -> str:
        """SHA-256 of all of it. Raises BadInput."""
        with damage_told(self.told, self.mend):
            return self._store.digest(self.area, self.shelf)

    @cached_property
    def _store(self) -> Store:
        return Store(DiskFiles(self.run))


def saved_state(
    run: Path,
    which: int | str | None,
    told: str | None = None,
    mend: str = "give another one by --at",
) -> SavedState:
    """That of an iteration, or the average of that name; None: the newest. Raises BadInput, with a
    list of what stands there, if there is no run, or no such state of it."""
    told = str(run) if told is None else told
    began = _began(run, told)
    if isinstance(which, str):
        iteration = _of_average(run, which, told, mend)
        return SavedState(run, iteration, merged(which), 0, began, told, mend)
    found = saved(run)
    wanted = max((s.iteration for s in found), default=None) if which is None else which
    of_it = [state for state in found if state.iteration == wanted]
    if of_it:
        best = of_it[-1]
        return SavedState(run, best.iteration, best.area, best.shelf, began, told, mend)
    listed = ", ".join(f"{state.iteration} ({state.kind})" for state in found)
    what = "nothing" if which is None else f"no state of iteration {which}"
    how = f"there are {listed}" if found else "train it with resume.every=N, which keeps some"
    raise BadInput(f"{told}: {what} stands there: {how}")


@contextmanager
def damage_told(told: str, mend: str) -> Iterator[None]:
    """Damage within is BadInput of the user's."""
    try:
        yield
    except Damaged as error:
        raise BadInput(f"{told}: {error}; {mend}") from None


def _of_average(run: Path, name: str, told: str, mend: str) -> int:
    """The iteration of what ``checkfree merge`` made, or a run's own average."""
    store = Store(DiskFiles(run))
    if name not in store.merged():
        there = ", ".join(f"{run}@{known}" for known in store.merged())
        how = f"there are {there}" if there else f"checkfree merge {run} --to {name} makes one"
        raise BadInput(f"{told}@{name}: no average of that name stands there: {how}")
    with damage_told(told, mend):
        try:
            return int(store.note(merged(name), 0)["progress"]["committed"])
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f"the manifest of {merged(name)} is damaged: {error!r}") from None


def _began(run: Path, told: str) -> Mapping[str, Any]:
    try:
        records = read(run) if (run / RECORDS).is_file() else []
        if records and records[0]["kind"] == "config" and records[0]["config"]["stages"] > 0:
            return records[0]
    except (BadInput, KeyError, TypeError, OSError) as error:
        raise BadInput(f"{told}: its records can't be read ({error})") from None
    raise BadInput(
        f"{told} is no run folder: give the out=FOLDER of a run that has trained, or "
        "FOLDER@ITERATION"
    )

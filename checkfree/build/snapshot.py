"""From a run folder back to a run: the newest good snapshot, and the folder as it was then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from checkfree.lead import Progress
from checkfree.messages.control import CHECKPOINT, RESUME
from checkfree.messages.tensors import StageState
from checkfree.ops import Address
from checkfree.runtime.folder import rewind
from checkfree.store import Damaged, Store


@dataclass(frozen=True)
class Snapshot:
    """All that a run is between two iterations. Exact copies are made again from their owners."""

    progress: Progress
    lives: Mapping[Address, int]
    states: Mapping[int, StageState]


def newest(folder: Path, store: Store) -> Snapshot | None:
    """The newest snapshot that is not damaged, with the folder taken back to its moment: later
    archives are forgotten and later records put aside. None: the run has to begin anew."""
    for shelf in reversed(store.offered(RESUME)):
        try:
            found = _load(store, shelf)
        except Damaged:
            continue
        store.drop(RESUME, shelf)
        _drop_unknown_checkpoints(store, found.progress)
        rewind(folder, found.progress.notes)
        return found
    store.drop(RESUME, -1)
    store.drop(CHECKPOINT, -1)
    rewind(folder, 0)
    return None


def _load(store: Store, shelf: int) -> Snapshot:
    note = store.note(RESUME, shelf)
    try:
        progress = Progress.from_json(note["progress"])
        lives = {Address.parse(seat): int(life) for seat, life in note["lives"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"the manifest of snapshot {shelf} is damaged: {error!r}") from None
    stages = sorted({seat.stage for seat in lives})
    return Snapshot(progress, lives, {s: store.load(RESUME, shelf, s) for s in stages})


def _drop_unknown_checkpoints(store: Store, progress: Progress) -> None:
    """The run will write them again; until then it must not know of them."""
    for shelf in store.offered(CHECKPOINT):
        if shelf not in progress.checkpoints:
            store.forget(CHECKPOINT, shelf)

"""From a run folder back to a run: the newest good snapshot, and the folder as it was then."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from checkfree.core.errors import BadInput
from checkfree.core.ops import Address
from checkfree.core.records import of_kind, read
from checkfree.lead import Progress
from checkfree.lead.membership import first_seats
from checkfree.messages.control import CHECKPOINT, HANDOVER, RESUME
from checkfree.messages.tensors import StageState
from checkfree.runtime.folder import count_notes, rewind
from checkfree.runtime.store import Damaged, Store


@dataclass(frozen=True)
class Snapshot:
    """All that a run is between two iterations. Exact copies are made again from their owners."""

    progress: Progress
    lives: Mapping[Address, int]
    states: Mapping[int, StageState]
    absent: Mapping[Address, int] = field(default_factory=dict)
    """Seats that stood empty, and the life that the next one there has."""
    beside: Mapping[Address, Mapping[str, Tensor]] = field(default_factory=dict)
    """What seats held for other stages that are not the first of their own."""

    def held(self, seat: Address) -> Mapping[str, Tensor]:
        """What a seat held for other stages; nothing, if none is known."""
        first = seat in first_seats(self.lives)
        return self.states[seat.stage].held if first else self.beside.get(seat, {})


def newest(folder: Path, store: Store, seats: Collection[Address]) -> Snapshot | None:
    """The newest good snapshot of a run with these seats, else its newest good checkpoint, with
    the folder taken back to that moment: later archives are forgotten, later records put aside.

    None if the run was stopped before its first step, and can begin anew. Raises BadInput if it
    came further than that and left nothing good.
    """
    records, notes, damage = read(folder), count_notes(folder), []
    store.keep_only(HANDOVER, ())  # of a moment that a resumed run may come to by another way
    candidates = (
        (area, shelf) for area in (RESUME, CHECKPOINT) for shelf in reversed(store.offered(area))
    )
    for area, shelf in candidates:
        try:
            found = load(store, area, shelf, seats)
        except Damaged as error:
            damage.append(str(error))
            continue
        if found.progress.notes > notes:
            damage.append(f"records.jsonl was cut short: {notes} of {found.progress.notes} records")
            continue
        store.keep_only(RESUME, [s for s in store.offered(RESUME) if s <= found.progress.tick])
        store.keep_only(CHECKPOINT, found.progress.checkpoints)
        rewind(folder, found.progress.notes)
        return found
    if of_kind(records, "iteration"):
        why = damage[0] if damage else "resume.every=0 made none"
        raise BadInput(
            f"{folder} has no good snapshot to go on from ({why}): start anew with another out="
        )
    rewind(folder, 0)
    return None


def load(store: Store, area: str, shelf: int, seats: Collection[Address]) -> Snapshot:
    """One archive of a run with these seats. Raises Damaged."""
    note = store.note(area, shelf)
    try:
        progress = Progress.from_json(note["progress"])
        lives, absent = (
            {Address.parse(seat): int(life) for seat, life in note.get(kind, {}).items()}
            for kind in ("lives", "absent")
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"the manifest of {area} {shelf} is damaged: {error!r}") from None
    if area == CHECKPOINT:  # it was not there yet when it noted what was
        progress = replace(progress, checkpoints=(*progress.checkpoints, shelf))
    else:
        progress = replace(progress, snapshots=(*progress.snapshots, (shelf, progress.committed)))
    known = lives.keys() | absent.keys()
    if known != set(seats) or {s.stage for s in lives} != {s.stage for s in seats}:
        raise Damaged(
            f"{area} {shelf} is of {len(known)} seats, the configuration has {len(seats)}"
        )
    stages = sorted({seat.stage for seat in lives})
    states = {stage: store.load(area, shelf, stage) for stage in stages}
    return Snapshot(progress, lives, states, absent, store.load_held(area, shelf))

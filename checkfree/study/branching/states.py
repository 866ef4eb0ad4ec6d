"""Whole states on disk: a run's at a tick, which others start from."""

from __future__ import annotations

from dataclasses import replace

from checkfree.core.errors import BadInput
from checkfree.core.ops import Address
from checkfree.lead import Progress
from checkfree.messages.control import RESUME
from checkfree.runtime.store import Damaged, Store
from checkfree.session.snapshot import Snapshot


def fetch(store: Store, tick: int, where: object) -> Snapshot:
    """The state of a tick, as a run that starts there, holds nothing for others yet and writes
    records of its own has it.

    Raises BadInput if it is damaged.
    """
    try:
        note = store.note(RESUME, tick)
        progress = Progress.from_json(note["progress"])
        lives = {Address.parse(seat): int(life) for seat, life in note["lives"].items()}
        states = {s: store.load(RESUME, tick, s) for s in {seat.stage for seat in lives}}
    except (Damaged, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{where} has a damaged state ({error}): remove it and run again") from None
    return Snapshot(replace(anew(progress), shadows=()), lives, states)


def anew(progress: Progress) -> Progress:
    """Of a run that goes on from there with records, readings and checkpoints of its own."""
    return replace(progress, notes=0, checkpoints=(), validation=None, validated_at=-1)

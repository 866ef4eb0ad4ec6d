"""Whole states on disk: a run's at a tick, which others start from."""

from __future__ import annotations

from dataclasses import replace

from checkfree.build.assemble import Assembly
from checkfree.build.snapshot import Snapshot
from checkfree.errors import BadInput
from checkfree.lead import Progress
from checkfree.messages.control import RESUME, Archive
from checkfree.messages.tensors import KeepState
from checkfree.ops import Address, Upload
from checkfree.store import Damaged, Store


def save(assembly: Assembly, store: Store) -> None:
    """Put the state of a run that has stopped on the shelf of its tick. Raises RunFailed."""
    lead, progress = assembly.lead, assembly.lead.progress
    living = assembly.living()
    owners = tuple(worker.address for worker in living.values())
    note = {"progress": progress.to_json(), "lives": lead.members.names()}
    store.deliver(Archive(progress.epoch, RESUME, progress.tick, owners, (), note))
    for worker in living.values():
        keep = Upload(worker.address)
        state = worker.stage.snapshot()
        store.deliver(KeepState(progress.epoch, keep, RESUME, progress.tick, state))
    while store.advance() is not None:
        pass


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

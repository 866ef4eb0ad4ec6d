"""A run of real processes: what its nursery prepares, and what its forks become.

``python -m checkfree.build.swarm PID HOME`` is the nursery of the launcher with that pid.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from checkfree.build.assemble import equip
from checkfree.build.door import frame_of, hand_over, invitation_of, unused
from checkfree.build.due import due_trace, hung_seats, struck_seats
from checkfree.build.job import Job, any_config, check_same, of_config, versions, with_trace
from checkfree.build.join import Means, join_here
from checkfree.build.limits import limits_of
from checkfree.build.snapshot import Snapshot, newest
from checkfree.build.terms import seats, terms
from checkfree.build.train import draw
from checkfree.errors import BadInput, RunFailed, cannot_write
from checkfree.failures import render_trace
from checkfree.lead import History, Lead, Progress, Takeover, history
from checkfree.load import load, to_yaml
from checkfree.membership import Membership
from checkfree.messages import codec
from checkfree.messages.control import CHECKPOINT, RESUME, WEIGHTS
from checkfree.ops import FAULTS, LEAD, LOG, STORE, Address
from checkfree.optimizer import lr_at
from checkfree.record import (
    RECORDS,
    EndRecord,
    IterationRecord,
    Record,
    ResumeRecord,
    ended,
    ledger,
    read,
    recoveries,
)
from checkfree.runtime import folder as folders
from checkfree.runtime.actor import Actor
from checkfree.runtime.files import DiskFiles, write_whole
from checkfree.runtime.process import settled
from checkfree.runtime.recorder import Recorder
from checkfree.runtime.swarm.faults import RealFaults
from checkfree.runtime.swarm.headquarters import Headquarters
from checkfree.runtime.swarm.joining.door import Frame
from checkfree.runtime.swarm.processes.home import Home
from checkfree.runtime.swarm.processes.launcher import LEAD_AGAIN
from checkfree.runtime.swarm.processes.nursery import Birth, Leash, Nursery, die_with_parent
from checkfree.runtime.swarm.seat import Seat
from checkfree.runtime.swarm.transport.links import FILE as LINKS
from checkfree.store import Damaged, Store
from checkfree.worker import Equipment, StageWorker


@dataclass
class Swarm:
    """All that the forks of a run share; made once, before the first of them."""

    job: Job
    equipment: Equipment
    home: Home
    patience: float
    limits: codec.Limits
    snapshot: Snapshot | None = None
    frame: Frame | None = None
    replacements: bool = True
    started: float = field(default_factory=time.perf_counter)

    def lives(self) -> dict[Address, int]:
        """Of each seat, as the run begins or goes on."""
        if self.snapshot is not None:
            return dict(self.snapshot.lives)
        return dict.fromkeys(seats(self.job.config), 0)

    def main(self, await_birth: Callable[[], Birth], spare: bool) -> int:
        """What a fork does. Returns its exit code. A spare gets ready before it is born."""
        with settled(self.job.config.threads):
            if not spare and await_birth()["seat"] == str(LEAD):
                return _Leading(self, int(await_birth()["life"])).run()
            if not spare and self.frame is not None:
                return join_here(self.home, await_birth(), self.means(), self.frame)
            seat = Seat(self.home, self.limits)
            birth = await_birth()
            return seat.run(birth, partial(self._worker, birth), self.patience)

    def means(self) -> Means:
        """What a local worker of a run with a door has, and a joiner has to prepare."""
        return Means(self.equipment, self.limits, self.job.config.threads)

    def _worker(self, birth: Birth) -> StageWorker:
        seat = Address.parse(birth["seat"])
        worker = StageWorker(seat, birth["life"], self.equipment, hollow=birth["hollow"])
        if self.snapshot is not None and not birth["hollow"]:
            worker.stage.restore(self.snapshot.states[seat.stage])
            if any(holder == str(seat) for _, holder, *_ in self.snapshot.progress.shadows):
                worker.shadows.take(self.snapshot.states[seat.stage].held)
        return worker


class _Leading:
    """The fork that hosts the lead and writes the run folder."""

    def __init__(self, swarm: Swarm, life: int):
        self._swarm, self._job = swarm, swarm.job
        self._lead: Lead | None = None
        if life:
            folders.mend(self._job.folder)
        self._quarters = Headquarters(
            swarm.home, swarm.lives().items(), swarm.patience, swarm.limits, swarm.frame
        )
        self._quarters.life = life
        self._quarters.attendance.replacing = swarm.replacements
        self._recorder = Recorder(self._job.folder / RECORDS, self._lr, [self._tell_status])

    def run(self) -> int:
        """Train. Returns 0 if the run is done."""
        self._open_records()
        found, reason = self._history(), ""
        if ended(read(self._job.folder)):
            return 0
        try:
            if not self._stored(found) and self._quarters.gather():
                self._train(found)
        except RunFailed as error:
            reason = str(error)
        if self._quarters.cut_off:
            return LEAD_AGAIN
        status = self._end(reason)
        self._quarters.close()
        return 0 if status == "done" else 1

    def _open_records(self) -> None:
        """What stands in them before the first plan; another lead may have been here before."""
        records, snapshot = read(self._job.folder), self._swarm.snapshot
        if not records:
            self._recorder.write(self._job.config_record())
        if snapshot is None or (records and records[-1]["kind"] == "resume"):
            return
        progress = snapshot.progress
        if folders.count_notes(self._job.folder) == progress.notes:
            self._recorder.write(ResumeRecord(progress.committed, progress.tick))

    def _history(self) -> History:
        """The run as its folder tells it."""
        store, made = Store(DiskFiles(self._job.folder)), {}
        for version in store.offered(CHECKPOINT):
            with suppress(Damaged, KeyError, TypeError):
                made[version] = int(store.note(CHECKPOINT, version)["progress"]["tick"])
        found = history(read(self._job.folder), made, store.offered(RESUME))
        return found if found.members else replace(found, members=self._swarm.lives())

    def _stored(self, found: History) -> bool:
        """Another lead had stored the trained weights, and all that is missing is the end."""
        p = found.progress
        if p.committed < self._job.config.iterations:
            return False
        try:
            note = Store(DiskFiles(self._job.folder)).note(WEIGHTS, p.committed)
            stored = bool(note["progress"]["tick"] == p.tick)
        except (Damaged, KeyError, TypeError):
            return False
        if stored:
            self._ending = p
        return stored

    _ending: Progress | None = None

    def _led(self, found: History) -> Lead:
        """A lead of the run as it is now."""
        attendance, snapshot = self._quarters.attendance, self._swarm.snapshot
        rules = terms(self._job.config, self._job.blueprint.tokens)
        strategy, lives = self._swarm.equipment.strategy, attendance.lives
        if self._quarters.took_over:
            present = {seat: peer.life for seat, peer in attendance.present.items()}
            takeover = Takeover(self._quarters.life, found, present, lives)
            lead = Lead(takeover.members(), strategy, rules, found.progress, takeover)
            lead.inherit(unused(Store(DiskFiles(self._job.folder)), read(self._job.folder)))
            return lead
        progress, absent = Progress(), {}
        if snapshot is not None:
            progress, absent = snapshot.progress, dict(snapshot.absent)
        lead = Lead(Membership(lives, lives | absent), strategy, rules, progress)
        attendance.fill(absent)
        return lead

    def _train(self, found: History) -> None:
        config, attendance = self._job.config, self._quarters.attendance
        snapshot, quarters = self._swarm.snapshot, self._quarters
        lead = self._lead = self._led(found)
        hung = hung_seats(config)
        if snapshot is not None and self._swarm.frame is not None and not quarters.took_over:
            lead.begin_from(hand_over(snapshot, Store(DiskFiles(self._job.folder))))
        actors: dict[Address, Actor] = {
            LEAD: lead,
            STORE: Store(DiskFiles(self._job.folder)),
            LOG: self._recorder,
            FAULTS: RealFaults(
                attendance,
                lambda tick, hit: quarters.strike(tick, hit, hung(tick)),
                struck_seats(config),
                quarters.struck,
            ),
        }
        self._quarters.run(actors, lambda: bool(lead.done or lead.failure))

    def _end(self, reason: str) -> str:
        """The last records and the picture; as ``checkfree train`` leaves them."""
        quarters, lead, job = self._quarters, self._lead, self._job
        reason = reason or quarters.reason or (lead.failure if lead else "")
        status = "failed" if reason else "interrupted" if quarters.stopped else "done"
        messages, nbytes = ({}, {}) if self._ending else quarters.dismiss()
        progress = self._ending or (lead.progress if lead else Progress())
        seconds = time.perf_counter() - self._swarm.started
        records = read(job.folder)
        with suppress(RunFailed):  # a disk that is full stays full; the error counts
            self._recorder.write(ledger(records, messages, nbytes))
            made = recoveries(records)
            end = EndRecord(status, progress.committed, progress.tick, reason, made, seconds)
            self._recorder.write(end)
        self._recorder.close()
        try:
            draw(job.folder)
        except OSError as error:
            raise cannot_write(job.folder / folders.PICTURE, error) from error
        return status

    def _lr(self, iteration: int) -> float:
        return lr_at(self._job.config.optimizer, iteration, self._job.config.iterations)

    def _tell_status(self, record: Record) -> None:
        lead = self._lead
        if lead is None or not isinstance(record, IterationRecord):
            return
        states = {str(seat): "trains" for seat in lead.members.alive}
        states |= {str(seat): "joins" for seat in lead.members.hollow}
        self._quarters.watch.pace.measured(record.seconds or 0.0)
        told = {"iteration": record.iteration, "loss": record.loss, "seconds": record.seconds}
        status = {**told, "seats": states, **self._quarters.status()}
        self._quarters.tell_launcher({"status": status})


# --- the nursery ---------------------------------------------------------------------------------


def _fresh(order: Mapping[str, Any]) -> Job:
    config = any_config(order["config"])
    return of_config(config, Path(order["folder"]), ())


def _resumed(order: Mapping[str, Any]) -> Job:
    path = folders.existing(Path(order["folder"]))
    config = with_trace(load(path / folders.CONFIG), path / folders.TRACE)
    job = of_config(config, path, ())
    check_same(job, read(path))
    return job


def _write(job: Job) -> None:
    """What stands in a run folder from the start."""
    path = job.folder
    write_whole(path / folders.CONFIG, to_yaml(job.config).encode())
    folders.write_json(path / folders.VERSIONS, versions())
    write_whole(path / folders.TRACE, render_trace(due_trace(job.config)).encode())


def _raise_children(leash: Leash, order: Mapping[str, Any], home: Home) -> None:
    """Check everything, prepare everything, then fork what the launcher asks for."""
    resume = bool(order["resume"])
    job = _resumed(order) if resume else _fresh(order)
    equipment = equip(job.config, job.blueprint, job.feeds)
    equipment.make(1, 1)  # what only a first optimizer imports, once for all forks
    told: list[str] = []
    invited = invitation_of(home, order["door"], told) if order.get("door") else None
    if not resume:
        due_trace(job.config)
        folders.create(job.folder)
    with folders.locked(job.folder):
        if not resume:
            _write(job)
        home.furnish(invited.secret if invited else None)
        (home.path / LINKS).write_text(order.get("links", ""), encoding="ascii")
        swarm = Swarm(job, equipment, home, float(order["patience"]), limits_of(job.config))
        swarm.replacements = bool(order.get("replacements", True))
        if resume:
            swarm.snapshot = newest(job.folder, Store(DiskFiles(job.folder)), seats(job.config))
        if invited is not None:
            swarm.frame = frame_of(invited, job, home, swarm.snapshot is not None)
        listed = [[str(seat), life] for seat, life in swarm.lives().items()]
        leash.tell({"ready": True, "seats": listed, "told": told})
        Nursery(leash, swarm.main, home.logs, int(order["spares"])).run()


def main(pid: int, folder: Path) -> None:
    """The nursery's whole life."""
    leash = Leash()
    die_with_parent(pid)
    heard = leash.hear()
    if not heard:
        return
    try:
        _raise_children(leash, heard[0], Home(folder))
    except BadInput as error:
        leash.tell({"bad": str(error)})
    except RunFailed as error:
        leash.tell({"failed": str(error)})


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))

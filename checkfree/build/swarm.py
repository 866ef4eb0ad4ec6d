"""A run of real processes: what its nursery prepares, and what its forks become.

``python -m checkfree.build.swarm PID HOME`` is the nursery of the launcher with that pid.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from checkfree.build.assemble import equip
from checkfree.build.due import due_trace, struck_seats
from checkfree.build.job import Job, any_config, check_same, of_config, versions, with_trace
from checkfree.build.snapshot import Snapshot, newest
from checkfree.build.terms import seats, terms
from checkfree.build.train import draw
from checkfree.errors import BadInput, RunFailed, cannot_write
from checkfree.failures import render_trace
from checkfree.lead import Lead, Progress
from checkfree.load import load, to_yaml
from checkfree.membership import Membership
from checkfree.messages import codec
from checkfree.ops import FAULTS, LEAD, LOG, STORE, Address
from checkfree.optimizer import lr_at
from checkfree.record import (
    RECORDS,
    EndRecord,
    IterationRecord,
    Record,
    ResumeRecord,
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
from checkfree.runtime.swarm.home import Home
from checkfree.runtime.swarm.nursery import Birth, Leash, Nursery, die_with_parent
from checkfree.runtime.swarm.seat import Seat
from checkfree.store import Store
from checkfree.worker import Equipment, StageWorker


@dataclass
class Swarm:
    """All that the forks of a run share; made once, before the first of them."""

    job: Job
    equipment: Equipment
    home: Home
    patience: float
    snapshot: Snapshot | None = None
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
                return _Leading(self).run()
            seat = Seat(self.home, codec.Limits())
            birth = await_birth()
            return seat.run(birth, partial(self._worker, birth), self.patience)

    def _worker(self, birth: Birth) -> StageWorker:
        seat = Address.parse(birth["seat"])
        worker = StageWorker(seat, birth["life"], self.equipment, hollow=birth["hollow"])
        if self.snapshot is not None and not birth["hollow"]:
            worker.stage.restore(self.snapshot.states[seat.stage])
        return worker


class _Leading:
    """The fork that hosts the lead and writes the run folder."""

    def __init__(self, swarm: Swarm):
        self._swarm, self._job = swarm, swarm.job
        self._lead: Lead | None = None
        self._quarters = Headquarters(swarm.home, swarm.lives().items(), swarm.patience)
        self._recorder = Recorder(self._job.folder / RECORDS, self._lr, [self._tell_status])

    def run(self) -> int:
        """Train. Returns 0 if the run is done."""
        if not read(self._job.folder):
            self._recorder.write(self._job.config_record())
        snapshot, reason = self._swarm.snapshot, ""
        if snapshot is not None:
            progress = snapshot.progress
            self._recorder.write(ResumeRecord(progress.committed, progress.tick))
        try:
            if self._quarters.gather():
                self._train()
        except RunFailed as error:
            reason = str(error)
        status = self._end(reason)
        self._quarters.close()
        return 0 if status == "done" else 1

    def _train(self) -> None:
        config, attendance = self._job.config, self._quarters.attendance
        lives, snapshot = attendance.lives, self._swarm.snapshot
        progress = snapshot.progress if snapshot else Progress()
        rules = terms(config, self._job.blueprint.tokens)
        strategy = self._swarm.equipment.strategy
        lead = self._lead = Lead(Membership(lives, lives), strategy, rules, progress)
        actors: dict[Address, Actor] = {
            LEAD: lead,
            STORE: Store(DiskFiles(self._job.folder)),
            LOG: self._recorder,
            FAULTS: RealFaults(attendance, self._quarters.kill, struck_seats(config)),
        }
        self._quarters.run(actors, lambda: bool(lead.done or lead.failure))

    def _end(self, reason: str) -> str:
        """The last records and the picture; as ``checkfree train`` leaves them."""
        quarters, lead, job = self._quarters, self._lead, self._job
        reason = reason or quarters.reason or (lead.failure if lead else "")
        status = "failed" if reason else "interrupted" if quarters.stopped else "done"
        messages, nbytes = quarters.dismiss()
        progress = lead.progress if lead else Progress()
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
    if not resume:
        due_trace(job.config)
        folders.create(job.folder)
    with folders.locked(job.folder):
        if not resume:
            _write(job)
        home.furnish()
        swarm = Swarm(job, equipment, home, float(order["patience"]))
        if resume:
            swarm.snapshot = newest(job.folder, Store(DiskFiles(job.folder)), seats(job.config))
        listed = [[str(seat), life] for seat, life in swarm.lives().items()]
        leash.tell({"ready": True, "seats": listed})
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

"""A run folder while a process trains in it: begun, gone on with, and ended. The one place where
that is done: ``train`` and ``resume``, what ``branch``, ``verify`` and ``profile`` train, and the
process that leads a swarm.

    with Session.create(job) as session:  # or Session.resume(job)
        session.assemble()
        return session.run()
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from checkfree.config.load import to_yaml
from checkfree.core.config import Config
from checkfree.core.errors import RunFailed, cannot_write
from checkfree.core.participants import Company
from checkfree.core.rates import lr_at
from checkfree.core.records import (
    RECORDS,
    AverageRecord,
    EndRecord,
    ResumeRecord,
    dumps,
    ledger,
    of_kind,
    read,
    recoveries,
)
from checkfree.failures import render_trace
from checkfree.lead import Progress, Terms
from checkfree.runtime import folder as folders
from checkfree.runtime.faults import Strikes
from checkfree.runtime.files import DiskFiles
from checkfree.runtime.process import settled
from checkfree.runtime.recorder import Listener, Recorder
from checkfree.runtime.store import Store
from checkfree.session.assemble import Assembly, assemble
from checkfree.session.equipment import equipment
from checkfree.session.initial import with_way_back
from checkfree.session.job import Job, check_same, versions_of, write_places
from checkfree.session.kept_tokenizer import keep_tokenizer
from checkfree.session.log_disk import LESS, check_log_disk
from checkfree.session.merging.running import keep_average
from checkfree.session.snapshot import Snapshot, newest
from checkfree.session.stash import check_stash_disk
from checkfree.session.terms import kept_of, seats, terms_of
from checkfree.session.trial import try_out
from checkfree.worker import WorkerContext


@dataclass(frozen=True)
class Run:
    """What a run left behind. ``status`` is "done" or "failed", and then ``reason`` says why."""

    folder: Path
    config: Config
    status: str
    reason: str
    stages: tuple[nn.Module, ...]
    """The trained stages 0 … n; those that live if the run failed."""

    @property
    def records(self) -> list[dict[str, Any]]:
        """All of ``records.jsonl``."""
        return read(self.folder)

    @property
    def losses(self) -> list[float]:
        """The loss of every committed step, in order."""
        return [record["loss"] for record in of_kind(self.records, "iteration")]


class Session:
    """``start``: the state that the run goes on from; None: its first weights. ``listeners`` hear
    of each record, if not those of the job; ``since``: when it began, by ``time.perf_counter()``,
    if not now."""

    assembly: Assembly

    def __init__(
        self,
        job: Job,
        start: Snapshot | None = None,
        *,
        listeners: Sequence[Listener] | None = None,
        since: float | None = None,
    ):
        def lr(iteration: int) -> float:
            return lr_at(job.config.optimizer, iteration, job.config.iterations)

        self.job, self.start = job, start
        self.store = Store(DiskFiles(job.folder), kept=kept_of(job.config))
        self._since = time.perf_counter() if since is None else since
        listeners = job.listeners if listeners is None else listeners
        self.recorder = Recorder(job.folder / RECORDS, lr, listeners)
        records = read(job.folder)
        self.recorder.resume(records)
        if not records:
            self.recorder.write(job.config_record())

    @classmethod
    @contextmanager
    def create(cls, job: Job) -> Iterator[Session]:
        """In a new folder, which nobody else trains in meanwhile. Raises BadInput before anything
        is written."""
        _check_disk(job, LESS)
        job.worker_context  # noqa: B018 (what can't be built is refused)
        job = try_out(job)
        trace = render_trace(job.due.trace)
        folders.create(job.folder)
        with folders.locked(job.folder):
            begin(job, trace)
            with cls.open(job) as session:
                yield session

    @classmethod
    @contextmanager
    def resume(cls, job: Job) -> Iterator[Session]:
        """From the newest good snapshot of its folder. Raises BadInput if that has none, or is of
        another configuration or other data."""
        check_same(job, read(job.folder))
        _check_disk(job, "")
        job.worker_context  # noqa: B018 (refused before the folder is locked)
        job = try_out(job)
        with folders.locked(job.folder):
            start = newest(job.folder, Store(DiskFiles(job.folder)), seats(job.config))
            go_on(job)
            with cls.open(job, start) as session:
                yield session

    @classmethod
    @contextmanager
    def open(cls, job: Job, start: Snapshot | None = None, **more: Any) -> Iterator[Session]:
        """In a folder that has been begun and is locked; ``more`` as a Session takes it."""
        with settled(job.config.threads):
            session = cls(job, start, **more)
            try:
                yield session
            finally:
                session.recorder.close()
                if "assembly" in vars(session):
                    session.assembly.let_go()

    def assemble(
        self,
        context: WorkerContext | None = None,
        *,
        terms: Terms | None = None,
        strikes: Strikes | None = None,
    ) -> Assembly:
        """All actors, in this process and in the state of the start; each argument as the
        configuration has it if it is not given. Raises BadInput for a state that is not the
        run's."""
        job, start = self.job, self.start
        begins = start is None or not start.states
        if begins and job.initial is not None:
            lives = start.lives if start else dict.fromkeys(seats(job.config), 0)
            start = job.initial.snapshot(lives)
        self.take_part(equipment(job.config, job.devices), start)
        terms = terms or terms_of(job.config, job.blueprint.tokens)
        self.assembly = assemble(
            job.config,
            context or job.worker_context,
            self.store,
            self.recorder,
            start,
            terms=replace(terms, initial=job.initial is not None),
            strikes=strikes or job.due.struck,
        )
        if start is not None and not begins:
            self.recorder.write(ResumeRecord(start.progress.committed, start.progress.tick))
        return self.assembly

    def take_part(self, facts: Mapping[str, str], start: Snapshot | None) -> None:
        """Tell on what this process computes, and in what it differs from the run's first."""
        since = 0 if start is None else start.progress.committed
        record = Company(read(self.job.folder)).joined(since, facts)
        assert record is not None  # it has no seat of its own
        self.recorder.write(record)

    def run(self) -> Run:
        """To its end, with the last records and the picture. Raises RunFailed, and whatever a
        user's module raises, which the records tell, too."""
        try:
            self.assembly.run()
            if self.assembly.lead.done:
                self.keep_average()
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            with suppress(RunFailed):  # a disk that is full stays full; the error counts
                self.end(status, str(error))
                draw(self.job.folder)
            raise
        lead, job = self.assembly.lead, self.job
        reason = with_way_back(lead.failure, job.folder, job.config, lead.progress.committed)
        status = "failed" if reason else "done"
        self.end(status, reason)
        draw(self.job.folder)
        modules = (worker.stage.trained() for worker in self.assembly.living().values())
        return Run(self.job.folder, self.job.config, status, reason, tuple(modules))

    def keep_average(self, devices: tuple[str, ...] = ()) -> AverageRecord | None:
        """The running average of a run that has come to its end, if it was asked for, recorded; see
        :func:`checkfree.session.merging.running.keep_average`."""
        record = keep_average(self.job, self.store, devices)
        if record is not None:
            self.recorder.write(record)
        return record

    def end(
        self,
        status: str,
        reason: str = "",
        progress: Progress | None = None,
        sent: tuple[Mapping[str, int], Mapping[str, int]] | None = None,
        dropped: Mapping[str, int] | None = None,
    ) -> None:
        """The last two records. ``progress``, and what was ``sent`` (messages and bytes, by kind)
        and ``dropped``, are told of a run whose actors are not all here. Raises RunFailed if the
        disk takes no more."""
        if progress is None or sent is None:
            runtime, progress = self.assembly.runtime, self.assembly.lead.progress
            sent = dict(runtime.traffic.messages), dict(runtime.traffic.bytes)
        records = read(self.job.folder)
        self.recorder.write(ledger(records, *sent, dropped or {}))
        made, seconds = recoveries(records), time.perf_counter() - self._since
        p = progress
        self.recorder.write(EndRecord(status, p.committed, p.tick, reason, made, seconds))


def _check_disk(job: Job, less: str) -> None:
    """Raise BadInput unless its logs, and what it offloads, can be written here, where it writes
    any; ``less``: how they become less."""
    measured = job.blueprint.tokens is not None  # else modules are the user's, and of any size
    check_log_disk(job.config, len(seats(job.config)), measured=measured, less=less)
    check_stash_disk(job.config)


def begin(job: Job, trace: str, records: Sequence[Mapping[str, Any]] = ()) -> None:
    """What stands in a run folder before it trains; ``trace``: the text of its failures,
    ``records``: what another run recorded on the way to its start. Raises BadInput, RunFailed."""
    if job.initial is not None:
        job.initial.keep(job.folder)
    keep_tokenizer(job.config, job.data, job.folder)
    lines = [dumps(job.config_record()), *map(json.dumps, records)] if records else ()
    folders.begin(job.folder, to_yaml(job.config), trace, lines, versions_of(job.config))


def go_on(job: Job) -> None:
    """What stands in a run folder before it goes on: its configuration, with the places where its
    data lie by now, and its tokenizer, of which it may have no good copy, as runs of older versions
    have none. Raises BadInput, RunFailed."""
    write_places(job)
    if job.config.data.kept is None:
        keep_tokenizer(job.config, job.data, job.folder)


def draw(folder: Path) -> Path:
    """The loss curve of a run folder, with its failures marked. Raises RunFailed if it can't be
    written."""
    from checkfree.report.run import draw_run  # only now: a plot's library is slow to load

    records, path = read(folder), folder / folders.PICTURE
    config = of_kind(records, "config")[0]["config"]
    kinds = ("iteration", "validation", "failure", "recovery")
    iterations, validations, failures, repairs = (of_kind(records, kind) for kind in kinds)
    title = f"{config['recovery']['name']}, {folder.name}"
    try:
        draw_run(iterations, validations, failures, repairs, path, title)
    except OSError as error:
        raise cannot_write(path, error) from error
    return path

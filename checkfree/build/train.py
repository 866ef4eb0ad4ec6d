"""Train, and go on training: the calls behind ``checkfree train`` and ``checkfree.train``."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from checkfree.build.assemble import Assembly, assemble
from checkfree.build.job import (
    Job,
    any_config,
    check_same,
    of_config,
    of_users,
    versions_of,
    with_trace,
)
from checkfree.build.snapshot import Snapshot, newest
from checkfree.build.terms import seats
from checkfree.config import Config
from checkfree.errors import BadInput, RunFailed, cannot_write
from checkfree.failures import render_trace
from checkfree.lead import Progress
from checkfree.load import load, to_yaml
from checkfree.parts import named, permitted
from checkfree.rates import lr_at
from checkfree.record import (
    RECORDS,
    EndRecord,
    ResumeRecord,
    ledger,
    of_kind,
    read,
    recoveries,
)
from checkfree.runtime import folder as folders
from checkfree.runtime.files import DiskFiles, write_whole
from checkfree.runtime.process import settled
from checkfree.runtime.recorder import Listener, Recorder
from checkfree.store import Store
from checkfree.worker import Batches


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


def train(
    config: Config | str | Path | Mapping[str, Any] | None = None,
    *,
    stages: Sequence[nn.Module] | None = None,
    batches: Batches | None = None,
    validation: Batches | None = None,
    listeners: Sequence[Listener] = (),
) -> Run:
    """Train as configured, through the failures that are configured, into a new run folder.

    ``config``: a Config, a YAML file, nested mappings of its keys, or None for the defaults.

    With ``stages`` your own modules train instead of a built-in model: stage 0 has
    ``embed(batch)`` and ``loss(hidden, batch)`` (a mean), stages 1 … n map hidden to hidden and
    have parameters of equal names and shapes. Then ``batches(iteration, microbatch)`` gives what
    stage 0 is fed, and ``validation`` the same for text that is not trained on; both have to be
    pure, because a microbatch that is tried again must be the same one. The modules passed in
    stay as they are: the trained ones are in ``Run.stages``.

    Raises BadInput, RunFailed (a full disk, for example: what was saved stays good) and whatever
    a user's module raises. A run that its strategy could not save returns with status "failed".
    """
    made = any_config(config, None if stages is None else max(1, len(stages) - 1))
    if not isinstance(config, Config):  # which says by itself whose code may run
        made = permitted(made, named(made))
    job = _job(made, Path(made.out), stages, batches, validation, listeners)
    job.equipment  # noqa: B018 (what can't be built is refused before writing)
    due = render_trace(job.due.trace).encode()
    path = folders.create(job.folder)
    with folders.locked(path):
        write_whole(path / folders.CONFIG, to_yaml(job.config).encode())
        (path / RECORDS).touch()  # from now on it can be resumed
        folders.write_json(path / folders.VERSIONS, versions_of(job.config))
        write_whole(path / folders.TRACE, due)
        return _run(job, None)


def resume(
    folder: Path | str,
    *,
    stages: Sequence[nn.Module] | None = None,
    batches: Batches | None = None,
    validation: Batches | None = None,
    listeners: Sequence[Listener] = (),
    allow: Collection[str] = (),
) -> Run:
    """Go on with a run that was stopped, from its newest good snapshot, bit for bit as if it had
    never stopped. A run of your own modules needs them again, and one with a strategy of your own,
    ``module:Class``, the name of its top package in ``allow``. Raises BadInput, RunFailed."""
    path = folders.existing(Path(folder))
    config = with_trace(load(path / folders.CONFIG, allow=allow), path / folders.TRACE)
    job = _job(config, path, stages, batches, validation, listeners)
    check_same(job, read(path))
    job.equipment  # noqa: B018 (refused before the folder is locked)
    with folders.locked(path):
        return _run(job, newest(path, Store(DiskFiles(path)), seats(config)))


def _job(
    config: Config,
    folder: Path,
    stages: Sequence[nn.Module] | None,
    batches: Batches | None,
    validation: Batches | None,
    listeners: Sequence[Listener],
) -> Job:
    if stages is not None:
        return of_users(config, folder, stages, batches, validation, listeners)
    if batches is not None or validation is not None:
        raise BadInput("batches and validation go with stages=[…]: give your modules too")
    return of_config(config, folder, listeners)


def _run(job: Job, snapshot: Snapshot | None) -> Run:
    started = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(settled(job.config.threads))
        recorder = _recorder(job)
        stack.callback(recorder.close)
        assembly = _assembly(job, recorder, snapshot)
        try:
            assembly.runtime.run()
            reason = assembly.lead.failure
            assert assembly.lead.done or reason, f"nothing moves: {assembly.lead.phase}"
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            with suppress(RunFailed):  # a disk that is full stays full; the error counts
                _end(job, assembly, recorder, status, str(error), started)
            raise
        status = "failed" if reason else "done"
        _end(job, assembly, recorder, status, reason, started)
    return Run(job.folder, job.config, status, reason, _modules(assembly))


def _recorder(job: Job) -> Recorder:
    def lr(iteration: int) -> float:
        return lr_at(job.config.optimizer, iteration, job.config.iterations)

    return Recorder(job.folder / RECORDS, lr, job.listeners)


def _assembly(job: Job, recorder: Recorder, snapshot: Snapshot | None) -> Assembly:
    """All actors, in the state of the snapshot if there is one; the records say which."""
    store, tokens = Store(DiskFiles(job.folder)), job.blueprint.tokens
    progress = snapshot.progress if snapshot else Progress()
    lives = snapshot.lives if snapshot else None
    assembly = assemble(
        job.config, job.equipment, store, recorder, progress, lives, tokens, job.due
    )
    if not read(job.folder):
        recorder.write(job.config_record())
    if snapshot is not None:
        for seat, life in snapshot.absent.items():
            assembly.runtime.join(seat, life)
        for seat, worker in assembly.workers.items():
            try:
                worker.stage.restore(snapshot.states[seat.stage])
                worker.hold(snapshot.held)
            except ValueError as error:
                raise BadInput(f"stage {seat.stage} is not the run's: {error}") from None
        recorder.write(ResumeRecord(progress.committed, progress.tick))
    return assembly


def _modules(assembly: Assembly) -> tuple[nn.Module, ...]:
    """One living replica of each stage."""
    found: dict[int, nn.Module] = {}
    for seat in sorted(assembly.lead.members.alive & assembly.runtime.actors.keys()):
        worker: Any = assembly.runtime.actors[seat]
        found.setdefault(seat.stage, worker.stage.module)
    return tuple(found.values())


def _end(
    job: Job, assembly: Assembly, recorder: Recorder, status: str, reason: str, started: float
) -> None:
    """The last two records and the picture. Raises RunFailed if the disk takes no more."""
    runtime, records, p = assembly.runtime, read(job.folder), assembly.lead.progress
    recorder.write(ledger(records, dict(runtime.messages), dict(runtime.bytes)))
    seconds = time.perf_counter() - started
    made = recoveries(records)
    recorder.write(EndRecord(status, p.committed, p.tick, reason, made, seconds))
    try:
        draw(job.folder)
    except OSError as error:
        raise cannot_write(job.folder / folders.PICTURE, error) from error


def draw(folder: Path) -> Path:
    """The loss curve of a run folder, with its failures marked."""
    from checkfree.report.curves import draw_run  # only now: a plot's library is slow to load

    records, path = read(folder), folder / folders.PICTURE
    config = of_kind(records, "config")[0]["config"]
    kinds = ("iteration", "validation", "failure", "recovery")
    iterations, validations, failures, repairs = (of_kind(records, kind) for kind in kinds)
    title = f"{config['recovery']['name']}, {folder.name}"
    draw_run(iterations, validations, failures, repairs, path, title)
    return path

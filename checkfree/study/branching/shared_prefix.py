"""The way to a loss, of a rule that has to put aside beforehand: trained once for all the stages
that are lost at its end, each in a branch of its own."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from checkfree.core.config import AverageConfig, Config, EveryConfig, FailuresConfig, ResumeConfig
from checkfree.core.errors import RunFailed
from checkfree.failures import render_trace
from checkfree.messages.control import RESUME
from checkfree.runtime import folder as folders
from checkfree.runtime.files import DiskFiles
from checkfree.runtime.store import Damaged, Store
from checkfree.session.job import Job
from checkfree.session.session import Session, begin
from checkfree.session.snapshot import Snapshot, load
from checkfree.session.terms import seats, terms_of
from checkfree.study.branching.base_run import BaseRun, Watch, begun_as
from checkfree.study.branching.on_routes import on_routes_of
from checkfree.study.branching.request import Rule
from checkfree.study.branching.states import anew, fetch


@dataclass(frozen=True)
class SharedPrefix:
    """From the iteration ``start`` to that of the loss."""

    folder: Path
    start: int
    rule: Rule


def travel(base: BaseRun, prefix: SharedPrefix, watch: Watch) -> None:
    """Train it, or find it done. Raises BadInput, RunFailed."""
    lock = base.request.folder / "locks" / prefix.folder.name
    lock.mkdir(parents=True, exist_ok=True)
    with folders.locked(lock):  # a killed command may have left a child behind
        job = replace(base.job, config=_config(base, prefix), folder=prefix.folder)
        if not _done(base, job):
            _train(base, prefix, job, watch)


def arrived(base: BaseRun, prefix: SharedPrefix) -> Snapshot:
    """The state at the loss, and what seats hold for others by then, as a run that starts there
    and writes records of its own has it. Raises RunFailed."""
    try:
        start = load(_store(prefix.folder), RESUME, base.tick, seats(base.config))
    except Damaged as error:
        raise RunFailed(f"{prefix.folder} is damaged ({error}): remove it and run again") from None
    return replace(start, progress=anew(start.progress))


def _train(base: BaseRun, prefix: SharedPrefix, job: Job, watch: Watch) -> None:
    """One iteration further than the loss, before which the snapshot is made."""
    shutil.rmtree(job.folder, ignore_errors=True)
    begin(job, render_trace(()))
    at, folder = base.request.at, base.request.folder
    job = replace(job, listeners=(watch(f"before a loss, {prefix.rule.label}", at - prefix.start),))
    start = fetch(base.states, base.tick - (at - prefix.start), folder / "states")
    with Session.open(job, start) as session:
        assembly = session.assemble(
            on_routes_of(base.config, job.worker_context, prefix.rule.strategy),
            terms=replace(terms_of(job.config, job.blueprint.tokens), iterations=at + 1),
            strikes=lambda tick: (),
        )
        assembly.run()
    if assembly.lead.failure:
        raise RunFailed(f"{job.folder}: {assembly.lead.failure}")


def _store(folder: Path) -> Store:
    return Store(DiskFiles(folder))


def _config(base: BaseRun, prefix: SharedPrefix) -> Config:
    """Its only snapshot is that of the loss's tick."""
    config = base.config
    return replace(
        config,
        out=str(prefix.folder),
        recovery=prefix.rule.config,
        failures=FailuresConfig(scenario=str(prefix.folder / folders.TRACE)),
        validation=replace(config.validation, every=0),
        checkpoint=EveryConfig(),
        average=AverageConfig(),
        resume=ResumeConfig(base.tick),
    )


def _done(base: BaseRun, job: Job) -> bool:
    there = base.tick in _store(job.folder).offered(RESUME)
    return there and begun_as(job) is not None

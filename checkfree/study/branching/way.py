"""The way to a loss, of a rule that has to put aside beforehand: trained once for all the stages
that are lost at its end, each in a branch of its own."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from checkfree.build.job import Job
from checkfree.build.session import Session, begin
from checkfree.build.snapshot import Snapshot, load
from checkfree.build.terms import seats, terms_of
from checkfree.config import Config, EveryConfig, FailuresConfig, ResumeConfig
from checkfree.errors import RunFailed
from checkfree.failures import render_trace
from checkfree.messages.control import RESUME
from checkfree.runtime import folder as folders
from checkfree.runtime.files import DiskFiles
from checkfree.store import Damaged, Store
from checkfree.study.branching.on_routes import on_routes_of
from checkfree.study.branching.request import Rule
from checkfree.study.branching.states import anew, fetch
from checkfree.study.branching.trunk import Ground, Watch, begun_as


@dataclass(frozen=True)
class Way:
    """From the iteration ``start`` to that of the loss."""

    folder: Path
    start: int
    rule: Rule


def travel(ground: Ground, way: Way, watch: Watch) -> None:
    """Train it, or find it done. Raises BadInput, RunFailed."""
    lock = ground.request.folder / "locks" / way.folder.name
    lock.mkdir(parents=True, exist_ok=True)
    with folders.locked(lock):  # a killed command may have left a child behind
        job = replace(ground.job, config=_config(ground, way), folder=way.folder)
        if not _done(ground, job):
            _train(ground, way, job, watch)


def arrived(ground: Ground, way: Way) -> Snapshot:
    """The state at the loss, and what seats hold for others by then, as a run that starts there
    and writes records of its own has it. Raises RunFailed."""
    try:
        start = load(_store(way.folder), RESUME, ground.tick, seats(ground.config))
    except Damaged as error:
        raise RunFailed(f"{way.folder} is damaged ({error}): remove it and run again") from None
    return replace(start, progress=anew(start.progress))


def _train(ground: Ground, way: Way, job: Job, watch: Watch) -> None:
    """One iteration further than the loss, before which the snapshot is made."""
    shutil.rmtree(job.folder, ignore_errors=True)
    begin(job, render_trace(()))
    at, folder = ground.request.at, ground.request.folder
    job = replace(job, listeners=(watch(f"before a loss, {way.rule.label}", at - way.start),))
    start = fetch(ground.states, ground.tick - (at - way.start), folder / "states")
    with Session.open(job, start) as session:
        assembly = session.assemble(
            on_routes_of(ground.config, job.equipment, way.rule.strategy),
            terms=replace(terms_of(job.config, job.blueprint.tokens), iterations=at + 1),
            strikes=lambda tick: (),
        )
        assembly.run()
    if assembly.lead.failure:
        raise RunFailed(f"{job.folder}: {assembly.lead.failure}")


def _store(folder: Path) -> Store:
    return Store(DiskFiles(folder))


def _config(ground: Ground, way: Way) -> Config:
    """Its only snapshot is that of the loss's tick."""
    config = ground.config
    return replace(
        config,
        out=str(way.folder),
        recovery=way.rule.config,
        failures=FailuresConfig(scenario=str(way.folder / folders.TRACE)),
        validation=replace(config.validation, every=0),
        checkpoint=EveryConfig(),
        resume=ResumeConfig(ground.tick),
    )


def _done(ground: Ground, job: Job) -> bool:
    there = ground.tick in _store(job.folder).offered(RESUME)
    return there and begun_as(job) is not None

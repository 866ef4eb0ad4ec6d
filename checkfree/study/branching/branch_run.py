"""One branch: a state of the run, a stage lost there, a rule, and the same data after it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from checkfree.core.config import AverageConfig, Config, EveryConfig, FailuresConfig, ResumeConfig
from checkfree.core.records import of_kind, read
from checkfree.core.units import derive
from checkfree.failures import Failure, render_trace
from checkfree.messages.control import CHECKPOINT, RESUME
from checkfree.recovery.none import NoRecovery
from checkfree.runtime import folder as folders
from checkfree.session.blueprint import Blueprint, of_family
from checkfree.session.job import Job
from checkfree.session.session import Session, begin
from checkfree.session.snapshot import Snapshot
from checkfree.session.terms import seats, terms_of
from checkfree.study.branching.base_run import BaseRun, Watch, begun_as
from checkfree.study.branching.on_routes import on_routes_of
from checkfree.study.branching.request import Records, Rule
from checkfree.study.branching.shared_prefix import SharedPrefix, arrived, travel
from checkfree.study.branching.states import fetch


@dataclass(frozen=True)
class BranchRun:
    """What one branch is: no ``rule`` is the run itself, without a loss."""

    folder: Path
    start: int
    """The iteration that it, or its ``prefix``, begins at; before the loss where the rule has to
    put aside first."""
    every: int
    """Iterations between two readings of its validation loss."""
    rule: Rule | None = None
    stage: int = 0
    reinit: int = 0
    """Which of several initialisations a lost stage gets; 0: the run's own."""
    prefix: SharedPrefix | None = None
    """Trained already, from ``start`` to the loss, for this branch and others."""

    @property
    def label(self) -> str:
        """For people."""
        if self.rule is None:
            return "the run, uninterrupted"
        again = f", initialisation {self.reinit}" if self.reinit else ""
        return f"stage {self.stage}, {self.rule.label}{again}"


def grow(base: BaseRun, run: BranchRun, watch: Watch) -> Records:
    """Train a branch, or find it done; its records. Raises BadInput, RunFailed."""
    lock = base.request.folder / "locks" / run.folder.name
    lock.mkdir(parents=True, exist_ok=True)
    with folders.locked(lock):  # a killed command may have left a child behind
        if not grown(base, run):
            _grow(base, run, _job(base, run), watch)
        return read(run.folder)


def _grow(base: BaseRun, run: BranchRun, job: Job, watch: Watch) -> None:
    shutil.rmtree(job.folder, ignore_errors=True)
    trace = () if run.rule is None else (Failure(base.tick, run.stage),)
    begin(job, render_trace(trace))
    if run.prefix is not None:
        travel(base, run.prefix, watch)
    since = base.request.at if run.prefix else run.start
    job = replace(job, listeners=(watch(run.label, base.stop - since),))
    lost = {seat for seat in seats(job.config) if run.rule and seat.stage == run.stage}
    rule = NoRecovery() if run.rule is None else run.rule.strategy
    start = _start(base, run)
    with Session.open(job, start) as session:
        if start.states and rule.replays is not None:  # what its first replays begin with
            note = {"progress": start.progress.to_json()}
            session.store.shelve(RESUME, start.progress.tick, start.states, note)
        assembly = session.assemble(
            on_routes_of(base.config, job.worker_context, rule),
            terms=replace(terms_of(job.config, job.blueprint.tokens), iterations=base.stop),
            strikes=lambda tick: lost if tick == base.tick else (),
        )
        assembly.run()
        for area in (CHECKPOINT, RESUME):
            session.store.keep_only(area, ())
        reason = assembly.lead.failure
        session.end("failed" if reason else "done", reason)


def _start(base: BaseRun, run: BranchRun) -> Snapshot:
    if run.prefix is not None:
        return arrived(base, run.prefix)
    tick = base.tick - (base.request.at - run.start)
    return fetch(base.states, tick, base.request.folder / "states")


def _job(base: BaseRun, run: BranchRun) -> Job:
    config, blueprint = _config(base, run), base.job.blueprint
    if run.reinit:
        blueprint = _reinitialised(base, blueprint, run.reinit)
    return replace(base.job, config=config, folder=run.folder, blueprint=blueprint)


def _config(base: BaseRun, run: BranchRun) -> Config:
    config = base.config
    return replace(
        config,
        out=str(run.folder),
        recovery=config.recovery if run.rule is None else run.rule.config,
        failures=FailuresConfig(scenario=str(run.folder / folders.TRACE)),
        validation=replace(config.validation, every=run.every, after_repair=True),
        checkpoint=EveryConfig(),
        average=AverageConfig(),
        resume=ResumeConfig(0),
    )


def _reinitialised(base: BaseRun, blueprint: Blueprint, number: int) -> Blueprint:
    """The same weights to begin with, others for a stage that starts anew."""
    seed = derive(base.config.seed, "reinit", number)
    vocabulary = base.job.data["vocabulary"]
    return replace(blueprint, fresh=of_family(replace(base.config, seed=seed), vocabulary).fresh)


def grown(base: BaseRun, run: BranchRun) -> bool:
    """This very branch came to its end before, as far as it is asked for now."""
    records = begun_as(_job(base, run))
    if records is None:
        return False
    ends = of_kind(records, "end")
    return bool(ends) and (ends[-1]["status"] == "failed" or ends[-1]["iteration"] >= base.stop)

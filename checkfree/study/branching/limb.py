"""One branch: a state of the run, a stage lost there, a rule, and the same data after it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from checkfree.build.blueprint import Blueprint, of_family
from checkfree.build.job import Job
from checkfree.build.session import Session, begin
from checkfree.build.snapshot import Snapshot
from checkfree.build.terms import seats, terms_of
from checkfree.config import Config, EveryConfig, FailuresConfig, ResumeConfig
from checkfree.failures import Failure, render_trace
from checkfree.messages.control import CHECKPOINT
from checkfree.record import of_kind, read
from checkfree.recovery.none import NoRecovery
from checkfree.runtime import folder as folders
from checkfree.study.branching.on_routes import on_routes_of
from checkfree.study.branching.request import Records, Rule
from checkfree.study.branching.states import fetch
from checkfree.study.branching.trunk import Ground, Watch, begun_as
from checkfree.study.branching.way import Way, arrived, travel
from checkfree.units import derive


@dataclass(frozen=True)
class Limb:
    """What one branch is: no ``rule`` is the run itself, without a loss."""

    folder: Path
    start: int
    """The iteration that it, or its ``way``, begins at; before the loss where the rule has to put
    aside first."""
    every: int
    """Iterations between two readings of its validation loss."""
    rule: Rule | None = None
    stage: int = 0
    reinit: int = 0
    """Which of several initialisations a lost stage gets; 0: the run's own."""
    way: Way | None = None
    """Trained already, from ``start`` to the loss, for this branch and others."""

    @property
    def label(self) -> str:
        """For people."""
        if self.rule is None:
            return "the run, uninterrupted"
        again = f", initialisation {self.reinit}" if self.reinit else ""
        return f"stage {self.stage}, {self.rule.label}{again}"


def grow(ground: Ground, limb: Limb, watch: Watch) -> Records:
    """Train a branch, or find it done; its records. Raises BadInput, RunFailed."""
    lock = ground.request.folder / "locks" / limb.folder.name
    lock.mkdir(parents=True, exist_ok=True)
    with folders.locked(lock):  # a killed command may have left a child behind
        if not grown(ground, limb):
            _grow(ground, limb, _job(ground, limb), watch)
        return read(limb.folder)


def _grow(ground: Ground, limb: Limb, job: Job, watch: Watch) -> None:
    shutil.rmtree(job.folder, ignore_errors=True)
    trace = () if limb.rule is None else (Failure(ground.tick, limb.stage),)
    begin(job, render_trace(trace))
    if limb.way is not None:
        travel(ground, limb.way, watch)
    since = ground.request.at if limb.way else limb.start
    job = replace(job, listeners=(watch(limb.label, ground.stop - since),))
    lost = {seat for seat in seats(job.config) if limb.rule and seat.stage == limb.stage}
    rule = NoRecovery() if limb.rule is None else limb.rule.strategy
    with Session.open(job, _start(ground, limb)) as session:
        assembly = session.assemble(
            on_routes_of(ground.config, job.equipment, rule),
            terms=replace(terms_of(job.config, job.blueprint.tokens), iterations=ground.stop),
            strikes=lambda tick: lost if tick == ground.tick else (),
        )
        assembly.run()
        session.store.keep_only(CHECKPOINT, ())
        reason = assembly.lead.failure
        session.end("failed" if reason else "done", reason)


def _start(ground: Ground, limb: Limb) -> Snapshot:
    if limb.way is not None:
        return arrived(ground, limb.way)
    tick = ground.tick - (ground.request.at - limb.start)
    return fetch(ground.states, tick, ground.request.folder / "states")


def _job(ground: Ground, limb: Limb) -> Job:
    config, blueprint = _config(ground, limb), ground.job.blueprint
    if limb.reinit:
        blueprint = _reinitialised(ground, blueprint, limb.reinit)
    return replace(ground.job, config=config, folder=limb.folder, blueprint=blueprint)


def _config(ground: Ground, limb: Limb) -> Config:
    config = ground.config
    return replace(
        config,
        out=str(limb.folder),
        recovery=config.recovery if limb.rule is None else limb.rule.config,
        failures=FailuresConfig(scenario=str(limb.folder / folders.TRACE)),
        validation=replace(config.validation, every=limb.every, after_repair=True),
        checkpoint=EveryConfig(),
        resume=ResumeConfig(0),
    )


def _reinitialised(ground: Ground, blueprint: Blueprint, number: int) -> Blueprint:
    """The same weights to begin with, others for a stage that starts anew."""
    seed = derive(ground.config.seed, "reinit", number)
    vocabulary = ground.job.data["vocabulary"]
    return replace(blueprint, fresh=of_family(replace(ground.config, seed=seed), vocabulary).fresh)


def grown(ground: Ground, limb: Limb) -> bool:
    """This very branch came to its end before, as far as it is asked for now."""
    records = begun_as(_job(ground, limb))
    if records is None:
        return False
    ends = of_kind(records, "end")
    return bool(ends) and (ends[-1]["status"] == "failed" or ends[-1]["iteration"] >= ground.stop)

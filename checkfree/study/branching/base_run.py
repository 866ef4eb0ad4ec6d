"""The run that branches leave: its state at one iteration, taken up from a snapshot or trained
again, and compared with what the run recorded."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from checkfree.config.load import load_saved, to_tree
from checkfree.config.places import placeless
from checkfree.core.config import AverageConfig, Config, FailuresConfig, ResumeConfig
from checkfree.core.errors import BadInput, RunFailed
from checkfree.core.ops import Address
from checkfree.core.participants import render_cause
from checkfree.core.records import RECORDS, of_kind, read
from checkfree.failures import Failure, make_trace, render_trace
from checkfree.messages.control import CHECKPOINT, RESUME
from checkfree.runtime import folder as folders
from checkfree.runtime.files import DiskFiles
from checkfree.runtime.recorder import Listener
from checkfree.runtime.store import Damaged, Store
from checkfree.session.assemble import save
from checkfree.session.equipment import equipment
from checkfree.session.job import (
    Job,
    check_same,
    of_config,
    recorded_config,
    with_trace,
)
from checkfree.session.session import Session, begin
from checkfree.session.snapshot import Snapshot, newest
from checkfree.session.terms import seats, terms_of
from checkfree.study.branching.request import (
    BranchRequest,
    Records,
    losses_of_seats,
    tick_at,
    undisturbed_from,
)

Watch = Callable[[str, int], Listener]
"""(what is trained, how many iterations) -> a listener of its records."""

RESUME_EVERY = 20
ELSEWHERE = "on a machine that has more"
_NOT_ITS_OWN = ("config", "resume", "ledger", "end")


@dataclass(frozen=True)
class BaseRun:
    """The run, and where in it the branches begin."""

    request: BranchRequest
    job: Job
    records: Records
    tick: int
    """Of the loss: the run had ``request.at`` iterations behind it."""
    failures: Mapping[int, Sequence[Address]]
    """The run's own, before ``tick``."""
    earliest: int
    """First iteration since which the run lost nothing."""

    @property
    def config(self) -> Config:
        """The run's."""
        return self.job.config

    @property
    def stop(self) -> int:
        """Iterations after which a branch ends. A stage is only lost where a step would follow."""
        return self.request.at + max(1, self.request.gaps[-1])

    @property
    def states(self) -> Store:
        """Of the iterations that branches start from, all of them kept."""
        return Store(DiskFiles(self.request.folder / "states"), newest=1_000_000)

    @property
    def here(self) -> dict[str, str]:
        """On what this process computes."""
        return equipment(self.config)

    @property
    def exact(self) -> bool:
        """The same bits come out again (semantics 17)."""
        return all(device == "cpu" for device in self.config.devices)


def survey(request: BranchRequest) -> BaseRun:
    """Find the place in the run. Raises BadInput, with nothing written."""
    path = folders.existing(request.run)
    records = read(path)
    began = of_kind(records, "config")
    if began and began[0]["data"].get("name") == "user":
        raise BadInput(f"{path} trained modules of your own, which a command has not got")
    config = with_trace(load_saved(path / folders.CONFIG, request.allow), path / folders.TRACE)
    tick = _tick(request, config, records)
    job = of_config(config, path, (), instead=lambda: f"branch it {ELSEWHERE}")
    check_same(job, records)
    failures = losses_of_seats(records, tick)
    return BaseRun(request, job, records, tick, failures, undisturbed_from(records, failures))


def _tick(request: BranchRequest, config: Config, records: Records) -> int:
    tick, end = tick_at(records, request.at), request.at + request.gaps[-1]
    if tick is None:
        reached = max((r["iteration"] + 1 for r in of_kind(records, "iteration")), default=0)
        raise BadInput(f"--at {request.at} is beyond {request.run}, which came to {reached}")
    if end > config.iterations and config.optimizer.schedule != "constant":
        raise BadInput(
            f"--at {request.at} with --gaps up to {request.gaps[-1]} goes beyond the run's "
            f"{config.iterations} iterations, where its learning rate ends: lower one of them"
        )
    return tick


def states_at(base: BaseRun, iterations: Collection[int], watch: Watch) -> None:
    """Have the states of these iterations on disk; those that are there already stay."""
    for iteration in sorted(iterations):
        tick = base.tick - (base.request.at - iteration)
        if tick not in base.states.offered(RESUME):
            _train_to(base, iteration, tick, watch)


def _train_to(base: BaseRun, iteration: int, tick: int, watch: Watch) -> None:
    folder = base.request.folder / "trunk"
    job = replace(base.job, config=_config(base, folder), folder=folder)
    if not (folder / RECORDS).is_file():  # which is written last
        shutil.rmtree(folder, ignore_errors=True)
        _begin(base, job, _take_over(base, job, tick))
    start = _newest(base, job, tick)
    done = start.progress.committed if start else 0
    job = replace(job, listeners=(watch("the run, as it was", iteration - done),))
    with Session.open(job, start) as session:
        terms = replace(terms_of(job.config, job.blueprint.tokens), iterations=iteration)
        assembly = session.assemble(terms=terms, strikes=lambda t: base.failures.get(t, ()))
        assembly.run()
    _compare(base, read(folder))
    if assembly.lead.failure or assembly.lead.progress.tick != tick:
        reason = assembly.lead.failure or f"tick {assembly.lead.progress.tick}, expected {tick}"
        raise RunFailed(f"{folder} did not come to iteration {iteration} as the run did: {reason}")
    save(assembly, base.states)


def _config(base: BaseRun, folder: Path) -> Config:
    resume = ResumeConfig(base.config.resume.every or RESUME_EVERY)
    failures = FailuresConfig(scenario=str(folder / folders.TRACE))
    quiet = replace(base.config, average=AverageConfig())
    return replace(quiet, out=str(folder), failures=failures, resume=resume)


def _begin(base: BaseRun, job: Job, records: Records = ()) -> None:
    lost = (Failure(t, s.stage, s.replica) for t, seats in base.failures.items() for s in seats)
    begin(job, render_trace(make_trace(lost)), records)


def begun_as(job: Job) -> Records | None:
    """The records of a job's folder, if it was begun as this very job; else None."""
    if not (job.folder / RECORDS).is_file():
        return None
    try:
        records = read(job.folder)
    except ValueError:
        return None
    began = of_kind(records, "config")
    if not began or began[0].get("init", {}).get("sha256") != first_state(job):
        return None
    was = recorded_config(began[0]["config"])
    return records if as_base(was) == as_base(to_tree(job.config)) else None


def first_state(job: Job) -> str | None:
    """The SHA-256 of the state that a run began with; None: it drew its weights."""
    return None if job.initial is None else str(job.initial.about["sha256"])


def as_base(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says but for where data and a first state lie, and for the paths of its
    own folder."""
    return placeless(config, "out", "failures")


# --- what the run left ---------------------------------------------------------------------------


def _take_over(base: BaseRun, job: Job, tick: int) -> Records:
    """Copy the run's archives that are not beyond ``tick``; its lead's records."""
    source = Store(DiskFiles(base.request.run))
    for area in (RESUME, CHECKPOINT):
        for shelf in source.offered(area):
            name = f"{area}/{shelf:08d}"
            if _tick_of(source, area, shelf) <= tick:
                with suppress(OSError):  # the run, if it still trains, has removed it
                    shutil.copytree(base.request.run / name, job.folder / name)
    return [record for record in base.records if record["kind"] not in _NOT_ITS_OWN]


def _tick_of(store: Store, area: str, shelf: int) -> float:
    """Infinity for an archive that is no good."""
    try:
        return int(store.note(area, shelf)["progress"]["tick"])
    except (Damaged, KeyError, TypeError, ValueError):
        return float("inf")


def _newest(base: BaseRun, job: Job, tick: int) -> Snapshot | None:
    """The newest good state up to ``tick`` in the base run, which is taken back there; None: it has
    to begin anew, and is ready to."""
    store = Store(DiskFiles(job.folder))
    for area in (RESUME, CHECKPOINT):
        good = [s for s in store.offered(area) if _tick_of(store, area, s) <= tick]
        store.keep_only(area, good)
    try:
        return newest(job.folder, store, seats(job.config))
    except BadInput:
        shutil.rmtree(job.folder)
        _begin(base, job)
        return None


def _compare(base: BaseRun, made: Records) -> None:
    if base.exact:
        differ = first_difference(base.records, made)
        if differ is not None:
            raise RunFailed(
                f"{base.request.run} {differ}: the same run gives other numbers here, so its "
                f"state can't be had back ({render_cause(base.records, base.here)})"
            )


def first_difference(records: Records, made: Records) -> str | None:
    """Where two runs' steps of one tick differ, in words."""
    then = {r["tick"]: (r["iteration"], r["loss"]) for r in of_kind(records, "iteration")}
    for step in of_kind(made, "iteration"):
        now, was = (step["iteration"], step["loss"]), then.get(step["tick"])
        if was is not None and was != now:
            return f"had loss {was[1]} at tick {step['tick']} and now has {now[1]}"
    return None

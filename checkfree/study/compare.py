"""A comparison from what was asked for to whole run folders: check, train what is missing; and its
report."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkfree.config.load import ConfigSource, placed, source_of
from checkfree.config.parts import running
from checkfree.core.config import Config
from checkfree.core.errors import BadInput, RunFailed
from checkfree.core.participants import RULE, apart, participants
from checkfree.core.records import render_unread
from checkfree.core.text_counts import render_text
from checkfree.plugins import packages
from checkfree.report.study.groups import book
from checkfree.report.study.model import REFERENCE, Study
from checkfree.report.study.summary import SummaryRow, summarize
from checkfree.runtime.folder import locked
from checkfree.session.equipment import equipment
from checkfree.study import check
from checkfree.study.compact import write_compact
from checkfree.study.folders import CellStanding, Records, State, standing
from checkfree.study.options import Options, check_names, make_options
from checkfree.study.plan import Cell, base, plan
from checkfree.study.pool import Pool, slots
from checkfree.study.reporting import report
from checkfree.study.reuse import reused_runs
from checkfree.study.study_file import Column, StudyFile, write_study
from checkfree.study.watcher import Watcher
from checkfree.study.work import Work


@dataclass(frozen=True)
class ComparisonRequest:
    """What a comparison was asked for."""

    source: ConfigSource
    words: Sequence[str]
    options: Options
    command: str
    """What asks for it again."""
    allow: Collection[str] = ()
    """Top packages that strategies from outside may be of."""

    @property
    def out(self) -> Path:
        """The folder of the comparison."""
        return Path(placed(self.options.out, self.source.name))

    @property
    def results(self) -> Path | None:
        """The folder of compact records, if any."""
        given = self.options.results
        return None if given is None else Path(os.path.expanduser(given))


@dataclass(frozen=True)
class Comparison:
    """What a comparison left behind."""

    folder: Path
    """Of the runs, each below ``runs/STRATEGY/[rate-R/]seed-N``, and of the report."""
    page: Path
    """The report, to be opened by a browser."""
    study: Study
    """The runs that have a result, with their records and their price on the fleet."""
    crashed: Mapping[str, str]
    """Runs without a result, and why."""

    @property
    def rows(self) -> tuple[SummaryRow, ...]:
        """The headline table: one row per strategy and rate."""
        return summarize(book(self.study)).rows


def compare(
    config: Config | str | Path | Mapping[str, Any] | None = None,
    *,
    strategies: Sequence[str] | None = None,
    rates: Sequence[float] | None = None,
    seeds: int | None = None,
    out: str | Path | None = None,
    results: str | Path | None = None,
    workers: int | None = None,
    devices: Sequence[str] | None = None,
    target: float | None = None,
    title: str | None = None,
    train_redundant: bool = False,
    allow: Collection[str] = (),
    watcher: Watcher | None = None,
) -> Comparison:
    """Train a configuration with several recovery strategies, from the same weights, on the same
    data and through the same failures, and report. What stands in ``out`` is not trained again.

    ``config``: as :func:`checkfree.train` takes it; what is None otherwise is as its section
    ``compare:`` says, or as below.

    ``strategies``: names, or variants such as ``"checkpoint(interval=25)"``. The reference
    ``no_failure`` is trained whether named or not. ``rates``: failures per stage and hour of the
    simulated clock, in percent; none: the configuration's own failures. ``seeds``: how many, from
    the configuration's on (1). ``out``: the folder (``runs/compare-NAME``); ``results``: one for
    compact records, too. ``workers``: runs at a time (one a core or device); ``devices``: each run
    gets one of these. ``target``: validation loss to reach, in nats per token. ``title``: of the
    report. ``train_redundant``: train exact strategies for every seed, though their losses are the
    reference's. ``allow``: top packages of strategies from outside that the configuration
    names; those named here may run. ``watcher`` hears how it gets on.

    Runs are processes of their own; call this from a script's ``if __name__ == "__main__":`` or a
    notebook alike. Raises BadInput before anything is trained, and RunFailed if no run has a
    result.
    """
    source = source_of(config)
    given = {
        "strategies": strategies,
        "rates": rates,
        "seeds": seeds,
        "out": None if out is None else str(out),
        "results": None if results is None else str(results),
        "workers": workers,
        "devices": devices,
        "target": target,
        "title": title,
        "train_redundant": train_redundant or None,
    }
    options = make_options(source.compare, given)
    own = running(config) if isinstance(config, Config) else ()
    may = {*allow, *own, *packages(strategies or ())}
    request = ComparisonRequest(source, (), options, "checkfree.compare(…)", may)
    crashed = train_missing(request, watcher or Watcher())
    try:
        page, study = report([request.out], request.out, allow=may)
    except BadInput as error:
        if not crashed:
            raise
        raise RunFailed("; ".join(f"{run}: {why}" for run, why in crashed.items())) from error
    return Comparison(request.out, page, study, crashed)


def train_missing(request: ComparisonRequest, watcher: Watcher) -> Mapping[str, str]:
    """Train all that is missing. Returns the runs that crashed, and why: they don't stop the
    others. Raises BadInput before anything is trained."""
    tree = base(request.source, request.words)
    cells = _cells(request, tree)
    told = _check(_standings(cells, request), cells, request.options)
    with _alone(request):
        found = _standings(cells, request)
        study = _study(request, cells, tree)
        for folder in filter(None, (request.out, request.results)):
            write_study(study, folder)
        for note in (*study.notes, *told):
            watcher.note(note)
        for cell in cells:
            _keep(request, cell, found[cell.place].records)
        return _train(request, cells, found, watcher)


def _standings(cells: Sequence[Cell], request: ComparisonRequest) -> dict[str, CellStanding]:
    """By place. What was borrowed counts for nothing if all is to be trained."""
    found = {cell.place: standing(cell, request.results) for cell in cells}
    for place, known in found.items():
        if request.options.train_redundant and known.records and "reused" in known.records[0]:
            found[place] = CellStanding(State.NEW)
    return found


def _keep(request: ComparisonRequest, cell: Cell, records: Records) -> None:
    """A compact record of what is done."""
    if request.results is not None and records:
        write_compact(records, request.results, cell)


def _cells(request: ComparisonRequest, tree: Mapping[str, Any]) -> tuple[Cell, ...]:
    check_names(request.options.strategies)
    cells = plan(tree, request.options, request.out, request.allow)
    check.check_values(cells)
    return cells


@contextmanager
def _alone(request: ComparisonRequest) -> Iterator[None]:
    """Nobody else compares in this folder meanwhile."""
    if request.results is not None:
        _make(request.results, "results")
    _make(request.out, "out")
    with locked(request.out):
        yield


def _make(folder: Path, option: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror
        raise BadInput(f"{option}={folder} cannot be written: {reason}; give another") from None


def _check(found: Mapping[str, CellStanding], cells: Sequence[Cell], options: Options) -> list[str]:
    """What there is to tell of the runs that are yet to come, their data, model and strategies, one
    line each. Raises BadInput for what can't be trained."""
    rest = [cell for cell in cells if found[cell.place].state is not State.DONE]
    room = slots(options.workers, options.devices, cells[0].config)
    job = check.check_buildable(rest, len(room)) if rest else None
    coming = None if job is None else job.data
    check.check_data({place: s.records for place, s in found.items() if s.records}, coming)
    if job is None:
        return []
    told = (render_text(job.data, job.text), render_unread(job.unread))
    return [*filter(None, told), *check.strategy_notes(rest, job)]


def _notes(options: Options, cells: Sequence[Cell]) -> list[str]:
    notes = []
    if REFERENCE not in options.strategies:
        notes.append(f"{REFERENCE} is trained too: it is what all others are compared with")
    own = {cell.config.failures.scenario: cell.config for cell in cells}
    if set(own) == {"none"}:
        notes.append("no run has any failures: give --rates, or failures to the configuration")
    for config in own.values():
        notes += check.trace_notes(config)
    return notes


def _study(request: ComparisonRequest, cells: Sequence[Cell], tree: Mapping[str, Any]) -> StudyFile:
    options = request.options
    columns = dict.fromkeys(Column(cell.label, cell.rate) for cell in cells)
    return StudyFile(
        title=options.title or f"Recovery strategies on {request.source.name}",
        command=request.command,
        columns=tuple(columns),
        seeds=options.seeds,
        target=options.target,
        notes=tuple(_notes(options, cells)),
        results=None if request.results is None else str(request.results),
        config=tree,
    )


def _tell_apart(cells: Sequence[Cell], found: Mapping[str, CellStanding], watcher: Watcher) -> None:
    """What is trained already, here or elsewhere, was trained on something else than the rest."""
    known = (who for standing in found.values() for who in participants(standing.records))
    here = {name: fact for name, fact in equipment(cells[0].config).items() if name != RULE}
    if others := apart(known, here):
        watcher.note(f"of what is trained already, {'; '.join(others)}: bits may differ")


def _train(
    request: ComparisonRequest,
    cells: Sequence[Cell],
    found: dict[str, CellStanding],
    watcher: Watcher,
) -> Mapping[str, str]:
    options, total = request.options, len(cells)
    reusable = {} if options.train_redundant else reused_runs(cells)
    work = Work(cells, found, reusable, lambda cell, records: _keep(request, cell, records))
    done = sum(known.state is State.DONE for known in found.values())
    if done < total:
        _tell_apart(cells, found, watcher)
        room = slots(options.workers, options.devices, cells[0].config)
        watcher.begin(total, done, work.iterations)
        with Pool(room) as pool:
            work.run(pool, watcher)
    return work.crashed

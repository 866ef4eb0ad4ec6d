"""A comparison from what was asked for to whole run folders: check, train what is missing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from checkfree.config.load import Source
from checkfree.core.errors import BadInput
from checkfree.report.study.model import REFERENCE
from checkfree.runtime.folder import locked
from checkfree.study import check
from checkfree.study.compact import write_compact
from checkfree.study.folders import Records, Standing, State, standing
from checkfree.study.options import Options, check_names
from checkfree.study.plan import Cell, base, plan
from checkfree.study.pool import Pool, slots
from checkfree.study.progress import Show
from checkfree.study.reuse import reused_runs
from checkfree.study.study_file import Column, StudyFile, write_study
from checkfree.study.work import Work


@dataclass(frozen=True)
class Request:
    """What a comparison was asked for."""

    source: Source
    words: Sequence[str]
    options: Options
    command: str
    """What asks for it again."""
    allow: Collection[str] = ()
    """Top packages that strategies from outside may be of."""

    @property
    def out(self) -> Path:
        """The folder of the comparison."""
        return Path(self.options.out.replace("{name}", self.source.name))

    @property
    def results(self) -> Path | None:
        """The folder of compact records, if any."""
        return None if self.options.results is None else Path(self.options.results)


def compare(request: Request, console: Console) -> Mapping[str, str]:
    """Train all that is missing. Returns the runs that crashed, and why: they don't stop the
    others. Raises BadInput before anything is trained."""
    tree = base(request.source, request.words)
    cells = _cells(request, tree)
    _check_data(_standings(cells, request), cells)
    with _alone(request):
        found = _standings(cells, request)
        study = _study(request, cells, tree)
        for folder in filter(None, (request.out, request.results)):
            write_study(study, folder)
        for note in study.notes:
            console.print(note, soft_wrap=True, markup=False, highlight=False)
        for cell in cells:
            _keep(request, cell, found[cell.place].records)
        return _train(request, cells, found, console)


def _standings(cells: Sequence[Cell], request: Request) -> dict[str, Standing]:
    """By place. What was borrowed counts for nothing if all is to be trained."""
    found = {cell.place: standing(cell, request.results) for cell in cells}
    for place, known in found.items():
        if request.options.train_redundant and known.records and "reused" in known.records[0]:
            found[place] = Standing(State.NEW)
    return found


def _keep(request: Request, cell: Cell, records: Records) -> None:
    """A compact record of what is done."""
    if request.results is not None and records:
        write_compact(records, request.results, cell)


def _cells(request: Request, tree: Mapping[str, Any]) -> tuple[Cell, ...]:
    check_names(request.options.strategies)
    cells = plan(tree, request.options, request.out, request.allow)
    check.check_values(cells)
    return cells


@contextmanager
def _alone(request: Request) -> Iterator[None]:
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


def _check_data(found: Mapping[str, Standing], cells: Sequence[Cell]) -> None:
    rest = [cell for cell in cells if found[cell.place].state is not State.DONE]
    expected = check.check_buildable(rest) if rest else None
    check.check_data({place: s.records for place, s in found.items() if s.records}, expected)


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


def _study(request: Request, cells: Sequence[Cell], tree: Mapping[str, Any]) -> StudyFile:
    options = request.options
    columns = dict.fromkeys(Column(cell.label, cell.rate) for cell in cells)
    return StudyFile(
        title=options.title or f"Recovery strategies on {request.source.name}",
        command=request.command,
        columns=tuple(columns),
        seeds=options.seeds,
        target=options.target,
        notes=tuple(_notes(options, cells)),
        results=options.results,
        config=tree,
    )


def _train(
    request: Request, cells: Sequence[Cell], found: dict[str, Standing], console: Console
) -> Mapping[str, str]:
    options, total = request.options, len(cells)
    reusable = {} if options.train_redundant else reused_runs(cells)
    work = Work(cells, found, reusable, lambda cell, records: _keep(request, cell, records))
    done = sum(known.state is State.DONE for known in found.values())
    if done < total:
        room = slots(options.workers, options.devices, cells[0].config)
        with Show(console, total, done, work.iterations) as show, Pool(room) as pool:
            work.run(pool, show)
    return work.crashed

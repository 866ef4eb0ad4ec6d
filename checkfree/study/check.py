"""All that can be wrong with a comparison, found before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from checkfree.core.config import Config, FailuresConfig
from checkfree.core.errors import BadInput
from checkfree.failures import CLOCK, is_trace_file
from checkfree.recovery.options import AUTO
from checkfree.session.assemble import make_worker_context
from checkfree.session.due import DueFailures
from checkfree.session.job import Job, of_config
from checkfree.session.log_disk import check_log_disk
from checkfree.session.memory import check_fits
from checkfree.session.rehearsal import setting, strikes
from checkfree.session.stash import check_stash_disk
from checkfree.session.terms import seats
from checkfree.session.trial import try_out
from checkfree.study.folders import Records
from checkfree.study.plan import Cell


def check_values(cells: Sequence[Cell]) -> None:
    """Raise BadInput for the first value that no run could take. Needs no data."""
    for cell in _columns(cells):
        with _named(cell):
            setting(cell.config)
            if cell.config.failures.scenario == CLOCK:
                strikes(cell.config)
            else:
                DueFailures(cell.config)


def check_buildable(cells: Sequence[Cell], at_once: int) -> Job:
    """The first of these cells as a job, whose data are those of all, after all has been built once
    that a run is built of, and there is memory for each, and for so many of the first ``at_once``.
    Opens the data, and so fills their cache. Raises BadInput."""
    if any(cell.config.schedule == AUTO for cell in cells):
        raise BadInput(
            "schedule=auto may take another one for each strategy, and runs that are compared have "
            "the same: name the one that checkfree schedule shows for it"
        )
    check_fits(cells[0].config, min(at_once, len(cells)))
    for cell in _columns(cells):
        with _named(cell):
            check_fits(cell.config)
            check_stash_disk(cell.config)
            check_log_disk(cell.config, min(at_once, len(cells)) * len(seats(cell.config)))
    job = of_config(cells[0].config, cells[0].folder, ())
    job = try_out(job)
    for cell in _columns(cells):
        with _named(cell):
            job.notes(cell.config.recovery)
            calm = _calm(cell.config)
            make_worker_context(calm, job.blueprint, job.feeds, DueFailures(calm).stages)
    return job


def strategy_notes(cells: Sequence[Cell], job: Job) -> list[str]:
    """What there is to say of their strategies for the stages of ``job``, one line each."""
    found = (note for cell in _columns(cells) for note in job.notes(cell.config.recovery))
    return list(dict.fromkeys(found))


def _columns(cells: Sequence[Cell]) -> list[Cell]:
    """One cell of each strategy and rate: seeds make no difference to what is right."""
    return list({(cell.label, cell.rate): cell for cell in reversed(cells)}.values())[::-1]


@contextmanager
def _named(cell: Cell) -> Iterator[None]:
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{cell.label}: {error}") from None


def _calm(config: Config) -> Config:
    """Failures on the clock take a rehearsal to know: too long for a check."""
    if config.failures.scenario != CLOCK:
        return config
    return replace(config, failures=FailuresConfig(scenario="none"))


def check_data(found: Mapping[str, Records], coming: Mapping[str, Any] | None) -> None:
    """Raise BadInput unless all runs saw the same data. ``found``: records by name of their run;
    ``coming``: the data of runs that are yet to come, if there are any."""
    expected = json.loads(json.dumps(coming))  # as records have it
    of = {name: records[0]["data"] for name, records in found.items()}
    first, theirs = next(iter(of.items()), ("", None))
    for name, data in of.items():
        if data != theirs:
            raise BadInput(f"{name} saw other data than {first} ({data}, {theirs}): {_MEND}")
    if expected is not None and theirs is not None and theirs != expected:
        raise BadInput(f"{first} saw other data ({theirs}) than is here ({expected}): {_MEND}")


_MEND = "give another --out and --results, or remove what is of the other data"


def trace_notes(config: Config) -> list[str]:
    """What is odd about a trace file beside this run, one line each."""
    if not is_trace_file(config.failures.scenario):
        return []
    ticks = [failure.tick for failure in DueFailures(config).trace]
    name, length = config.failures.scenario, config.iterations
    late = sum(tick >= length for tick in ticks)
    notes = []
    if late:
        notes.append(
            f"{name}: {late} of {len(ticks)} failures come after tick {length - 1}, the last "
            "iteration's; they strike only runs that train iterations again"
        )
    if not ticks:
        notes.append(f"{name} has no failures")
    elif max(ticks) < length // 2:
        notes.append(
            f"{name} ends at tick {max(ticks)}; the {length - 1 - max(ticks)} iterations after it "
            "run undisturbed"
        )
    return notes

"""The report of whatever stands in some folders, and its main table as text."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from checkfree.config.load import as_section
from checkfree.core.config import FleetConfig
from checkfree.core.errors import cannot_write
from checkfree.core.records import of_kind
from checkfree.report.study.groups import Group, book
from checkfree.report.study.interval import Estimate, estimate
from checkfree.report.study.model import Study
from checkfree.report.study.run_series import Run
from checkfree.report.study.summary import Row, summarize
from checkfree.report.study.write import write_report
from checkfree.session.price import price
from checkfree.simulate.fleet import check_fleet
from checkfree.study.gather import gather, priced
from checkfree.study.pricing import PRICED, Pricer, Prices


def report(
    folders: Sequence[Path],
    out: Path,
    *,
    target: float | None = None,
    fleet: Mapping[str, Any] | None = None,
    pricer: Pricer = price,
    allow: Collection[str] = (),
) -> tuple[Path, Study]:
    """Write the report of all finished runs in ``folders`` into ``out``; returns its page and what
    it was made from. ``target``: validation loss, over the comparison's own; ``fleet``: keys of
    ``fleet`` over each run's own; ``allow``: see :func:`checkfree.config.load.load`. Raises
    BadInput, RunFailed."""
    check_fleet(as_section(fleet or {}, FleetConfig, "fleet."))
    study = gather(folders)
    if target is not None:
        study = replace(study, target=target)
    study = priced(study, Prices(pricer, out / PRICED, fleet or {}, allow))
    try:
        return write_report(study, out), study
    except OSError as error:
        raise cannot_write(out, error) from error


def table(study: Study) -> Table:
    """Per strategy and rate: seeds, the last validation loss, the gap to the reference, and where
    runs ended that could not be saved. Means with the half width of their 95 % intervals."""
    made = Table(box=None, pad_edge=False)
    for name in ("strategy", "failures", "seeds", "last validation", "gap to no_failure", "ended"):
        made.add_column(name, overflow="fold")
    for row in summarize(book(study)).rows:
        group = row.group
        made.add_row(
            group.label,
            _rate(group),
            str(len(group.runs)),
            _shown(last_validation(group)),
            _shown(row.gap, sign="+"),
            _ended(row),
        )
    return made


def last_validation(group: Group) -> Estimate | None:
    """Of all seeds; None if one of them ended early, for then there is no mean of the end."""
    if group.lost or group.unfinished:
        return None
    return estimate(_last(run) for run in group.runs)


def _last(run: Run) -> float | None:
    losses = run.validation.on("iterations")
    return float(losses[1][-1]) if losses is not None and len(losses[1]) else None


def _rate(group: Group) -> str:
    if group.rate is not None:
        return f"{group.rate:g} %/h"
    met = any(of_kind(run.entry.records, "failure") for run in group.runs)
    return "as configured" if met else "none"


def _shown(value: Estimate | None, sign: str = "") -> str:
    if value is None:
        return "–"
    mean = f"{value.mean:{sign}.4f}"
    return mean if value.n == 1 else f"{mean} ± {value.half:.4f}"


def _ended(row: Row) -> str:
    lost = row.group.lost
    return ", ".join(f"at {run.end}" for run in lost) if lost else ""

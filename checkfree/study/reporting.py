"""The report of whatever stands in some folders."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from checkfree.config.load import as_section
from checkfree.core.config import FleetConfig
from checkfree.core.errors import cannot_write
from checkfree.report.study.model import Study
from checkfree.report.study.write import write_report
from checkfree.session.price import price
from checkfree.simulator.fleet import check_fleet
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

"""Writes the report of a comparison: a page, tables and pictures."""

from __future__ import annotations

from pathlib import Path

from checkfree.report.study.csvs import write_csvs
from checkfree.report.study.frontier import frontier
from checkfree.report.study.groups import book
from checkfree.report.study.model import Study
from checkfree.report.study.page import page
from checkfree.report.study.png import draw_frontier, draw_gaps, draw_ledger, draw_losses
from checkfree.report.study.summary import summarize


def write_report(study: Study, folder: Path) -> Path:
    """Write ``report.html``, four ``.csv`` and four ``.png`` into ``folder``, made if need be.

    The page holds all that it needs, so it opens from disk without a network. Returns its path.
    What runs lack (prices, losses, seeds, the reference) is left out and said. Raises OSError if
    the folder takes no more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sorted_study = book(study)
    summary = summarize(sorted_study)
    write_csvs(sorted_study, summary, folder)
    draw_losses(sorted_study, folder / "loss.png")
    draw_gaps(sorted_study, folder / "gap.png")
    draw_ledger(sorted_study, folder / "ledger.png")
    draw_frontier(sorted_study, frontier(sorted_study, summary), folder / "frontier.png")
    path = folder / "report.html"
    path.write_text(page(sorted_study, summary), encoding="utf-8")
    return path

"""``checkfree report``, and what ``checkfree compare`` ends with."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from checkfree.cli.arguments import DONE, Commands, takes_allow
from checkfree.core.errors import BadInput
from checkfree.core.records import of_kind

if TYPE_CHECKING:
    from checkfree.report.study.groups import Group
    from checkfree.report.study.interval import Estimate
    from checkfree.report.study.model import Study

_WIDE = 140
"""Columns of a table that goes to a file."""


def add(commands: Commands) -> None:
    """Register the command."""
    parser = commands.add_parser("report", help="make the report of finished runs again")
    parser.description = (
        "Report on any set of comparisons, folders of results, and single runs: a page, tables, "
        "pictures. As in: checkfree report runs/compare-demo --fleet home fleet.price=1.2."
    )
    parser.add_argument("folders", nargs="+", metavar="DIR", help="of a comparison, or of a run")
    parser.add_argument("--out", metavar="DIR", type=Path, help="default: the first folder")
    parser.add_argument("--fleet", metavar="NAME", help="price the runs on another fleet")
    parser.add_argument("--target", metavar="LOSS", type=float, help="validation loss to reach")
    takes_allow(parser)
    parser.set_defaults(run=_report, words=[])


def _report(arguments: argparse.Namespace) -> int:
    given = [word for word in arguments.folders if "=" in word and not Path(word).exists()]
    folders = [Path(word) for word in arguments.folders if word not in given]
    words = [*given, *arguments.words]
    if not folders:
        raise BadInput("give a folder, as in: checkfree report runs/compare-demo")
    fleet = _fleet(words, arguments.fleet)
    out = arguments.out or folders[0]
    show_report(folders, out, target=arguments.target, fleet=fleet, allow=arguments.allow)
    return DONE


def _fleet(words: Sequence[str], name: str | None) -> Mapping[str, Any]:
    from checkfree.config.load import parse_words

    given = [] if name is None else [f"fleet.name={name}"]
    tree = parse_words([*given, *words])
    others = [key for key in tree if key != "fleet"]
    if others or not isinstance(tree.get("fleet", {}), Mapping):
        wrong = others[0] if others else "fleet"
        raise BadInput(f"{wrong}=… is nothing that a report changes: only fleet.… is")
    fleet: Mapping[str, Any] = tree.get("fleet", {})
    return fleet


def show_report(
    folders: Sequence[Path],
    out: Path,
    *,
    target: float | None = None,
    fleet: Mapping[str, Any] | None = None,
    allow: Collection[str] = (),
) -> None:
    """Make the report; print its main table, what a reader must know, and where it is."""
    from checkfree.study.reporting import report

    page, study = report(folders, out, target=target, fleet=fleet, allow=allow)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDE
    console.print(study_table(study))
    for note in study.notes:
        console.print(note, soft_wrap=True, markup=False)
    print(page)


def study_table(study: Study) -> Table:
    """Per strategy and rate: seeds, the last validation loss, the gap to the reference, and where
    runs ended that could not be saved. Means with the half width of their 95 % intervals, and of
    goodput the mean."""
    from checkfree.report.study.groups import book
    from checkfree.report.study.summary import mean, summarize

    made = Table(box=None, pad_edge=False)
    names = ("strategy", "failures", "seeds", "last validation", "gap to no_failure")
    for name in (*names, "real goodput", "ended"):
        made.add_column(name, overflow="fold")
    for row in summarize(book(study)).rows:
        group = row.group
        goodput = mean(run.goodput for run in group.runs if run.goodput is not None)
        made.add_row(
            group.label,
            _rate(group),
            str(len(group.runs)),
            _shown(row.last_validation),
            _shown(row.gap, sign="+"),
            "–" if goodput is None else f"{goodput:.1%}",
            ", ".join(f"at {run.end}" for run in group.lost),
        )
    return made


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

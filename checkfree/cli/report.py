"""``checkfree report``, and what ``checkfree compare`` ends with."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from checkfree.cli.arguments import DONE, Commands, takes_allow
from checkfree.core.errors import BadInput

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
    from checkfree.study.reporting import report, table

    page, study = report(folders, out, target=target, fleet=fleet, allow=allow)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDE
    console.print(table(study))
    for note in study.notes:
        console.print(note, soft_wrap=True, markup=False)
    print(page)

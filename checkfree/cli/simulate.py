"""``checkfree simulate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from checkfree.cli.arguments import DONE, Commands, takes_config
from checkfree.core.errors import BadInput

_WIDE = 230
"""Columns of a table that goes to a file."""


def add(commands: Commands) -> None:
    """Register the command."""
    parser = commands.add_parser("simulate", help="what runs would take, without training")
    parser.description = (
        "Rehearse runs with the lead that trains and workers that hold nothing, and price them on "
        "a described fleet, at any size. As in: checkfree simulate paper/500m --strategies "
        "no_failure,checkpoint,redundant,checkfree --rates 5,16 fleet.name=home."
    )
    takes_config(parser, required=True)
    parser.add_argument("--strategies", metavar="A,B,…", help="default: the configuration's own")
    parser.add_argument("--rates", metavar="R,…", help="failures per stage and hour, in percent")
    parser.add_argument("--seeds", metavar="N", type=int, default=1, help="runs of each")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there")
    parser.set_defaults(run=_simulate)


def _simulate(arguments: argparse.Namespace) -> int:
    from checkfree.config.load import build, open_source
    from checkfree.plugins import packages
    from checkfree.study.options import check_names, make_options
    from checkfree.study.plan import base, plan
    from checkfree.study.simulation import simulate, table, to_json

    source = open_source(arguments.config)
    tree = base(source, arguments.words)
    own = build(tree).recovery.name
    given = {
        "strategies": arguments.strategies or ("no_failure" if own == "none" else own),
        "rates": arguments.rates,
        "seeds": arguments.seeds,
    }
    options = make_options({}, given)
    check_names(options.strategies)
    given_words = (*arguments.words, arguments.strategies or "")
    allow = {*arguments.allow, *packages(given_words)}
    cells = plan(tree, options, Path("simulated"), allow)
    console = Console(highlight=False)
    with Console(stderr=True).status("rehearsing") as status:
        rows = simulate(cells, lambda cell: status.update(f"rehearsing {cell}"))
    if not console.is_terminal:
        console.width = _WIDE
    console.print(table(rows))
    if arguments.json is not None:
        try:
            arguments.json.write_text(to_json(rows) + "\n", encoding="utf-8")
        except OSError as error:
            raise BadInput(f"--json {arguments.json} cannot be written: {error.strerror}") from None
    return DONE

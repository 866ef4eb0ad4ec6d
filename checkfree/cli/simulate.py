"""``checkfree simulate``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from checkfree.cli.arguments import DONE, Commands, takes_config
from checkfree.core.cost import SECONDS
from checkfree.core.errors import BadInput
from checkfree.core.units import render_bytes, render_seconds

if TYPE_CHECKING:
    from checkfree.study.simulation import Simulation

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
    parser.set_defaults(run=_simulate, shows=True)


def _simulate(arguments: argparse.Namespace) -> int:
    from checkfree.config.load import split
    from checkfree.study.simulation import simulate, to_json

    console = Console(highlight=False)
    with Console(stderr=True).status("rehearsing") as status:
        rows = simulate(
            arguments.config,
            strategies=split(arguments.strategies) if arguments.strategies else None,
            rates=arguments.rates,
            seeds=arguments.seeds,
            words=arguments.words,
            allow=arguments.allow,
            watch=lambda cell: status.update(f"rehearsing {cell}"),
        )
    if not console.is_terminal:
        console.width = _WIDE
    console.print(simulation_table(rows))
    if arguments.json is not None:
        try:
            arguments.json.write_text(to_json(rows) + "\n", encoding="utf-8")
        except OSError as error:
            raise BadInput(f"--json {arguments.json} cannot be written: {error.strerror}") from None
    return DONE


def simulation_table(rows: Sequence[Simulation]) -> Table:
    """Time, where it went, and what is sent and stored."""
    first = rows[0].runs[0]
    made = Table(title=f"On the fleet {first.fleet}, {first.nodes} nodes", title_justify="left")
    made.add_column("strategy", overflow="fold")
    columns = ["failures", "s/iteration", "hours", *SECONDS, "recovery", "sent/iteration", "held"]
    columns += [] if first.price is None else ["cost"]
    for column in columns:
        made.add_column(column, justify="right")
    made.add_column("ended")
    for row in rows:
        made.add_row(*_cells(row))
    return made


def _cells(row: Simulation) -> list[str]:
    runs = row.runs
    rate = "" if row.rate is None else f" {row.rate:g} %/h"
    recoveries = [seconds for run in runs for seconds in run.recoveries]
    sent = mean(sum(run.bytes.values()) / max(1, len(run.ends)) for run in runs)
    held = max(sum(run.stored.values()) for run in runs)
    costs = [run.cost for run in runs if run.cost is not None]
    shares = [row.share(kind) for kind in SECONDS]
    early = [run for run in runs if run.reason]
    return [
        row.label + rate,
        f"{row.failures:.1f}",
        f"{row.seconds_per_iteration:.2f}",
        f"{mean(run.total for run in runs) / 3600:.2f}",
        *(f"{share:.1%}" if share else "–" for share in shares),
        render_seconds(mean(recoveries)) if recoveries else "–",
        render_bytes(sent),
        render_bytes(held),
        *([f"{mean(costs):.2f}"] if costs else []),
        f"{len(early)} of {len(runs)}; first: {early[0].reason}" if early else "",
    ]

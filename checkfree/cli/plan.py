"""``checkfree plan``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from checkfree.cli.arguments import DONE, Commands, takes_config
from checkfree.core.errors import BadInput
from checkfree.core.units import parse_bytes, render_bytes

if TYPE_CHECKING:
    from checkfree.study.fleet_plan import FleetPlan, Interval, PlanChoice

_WIDE = 190
"""Columns of a table that goes to a file."""


def add(commands: Commands) -> None:
    """Register the command."""
    parser = commands.add_parser("plan", help="which strategy finishes first on a fleet")
    parser.description = (
        "Search, by simulated runs, for the interval of waves and of checkpoints and the number of "
        "copies that finish first on a described fleet, and rank the strategies. As in: checkfree "
        "plan paper/500m --fleet home --rate 5 --memory 64GiB failures.stages=all."
    )
    takes_config(parser, required=True)
    parser.add_argument("--fleet", metavar="NAME", help="default: the configuration's fleet.name")
    parser.add_argument(
        "--rate",
        metavar="R",
        type=float,
        required=True,
        help="losses per stage and hour, in percent",
    )
    parser.add_argument("--memory", metavar="BYTES", help="of a node, as in 64GiB")
    parser.add_argument("--price", metavar="P", type=float, help="of a node per hour")
    parser.add_argument(
        "--costs",
        metavar="REPORT",
        type=Path,
        help="the folder of a comparison's report: ranks inexact strategies by its nats per loss",
    )
    parser.add_argument("--seeds", metavar="N", type=int, default=3, help="runs of each (3)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there")
    parser.set_defaults(run=_plan, shows=True)


def _plan(arguments: argparse.Namespace) -> int:
    from checkfree.study.costs import read_costs
    from checkfree.study.fleet_plan import plan_fleet, to_json

    costs = None if arguments.costs is None else read_costs(arguments.costs)
    words = [*arguments.words]
    if arguments.fleet is not None:
        words.insert(0, f"fleet.name={arguments.fleet}")
    if arguments.price is not None:
        words.append(f"fleet.price={arguments.price}")
    console = Console(highlight=False)
    with Console(stderr=True).status("rehearsing") as status:
        found = plan_fleet(
            arguments.config,
            rate=arguments.rate,
            memory=_memory(arguments.memory),
            costs=costs,
            seeds=arguments.seeds,
            words=words,
            allow=arguments.allow,
            watch=lambda label: status.update(f"rehearsing {label}"),
        )
    if not console.is_terminal:
        console.width = _WIDE
    console.print(plan_table(found))
    for line in verdict(found):
        console.print(line, soft_wrap=True, markup=False)
    if arguments.json is not None:
        try:
            arguments.json.write_text(to_json(found) + "\n", encoding="utf-8")
        except OSError as error:
            raise BadInput(f"--json {arguments.json} cannot be written: {error.strerror}") from None
    return DONE


def _memory(text: str | None) -> int | None:
    try:
        return None if text is None else parse_bytes(text)
    except ValueError as error:
        raise BadInput(f"--memory {error}") from None


def plan_table(found: FleetPlan) -> Table:
    """A row a strategy, the ranked ones first."""
    stages = ", ".join(f"S{stage}" for stage in found.stages)
    made = Table(
        title=f"On the fleet {found.fleet}, {found.nodes} nodes, {found.rate:g} % an hour of "
        f"{stages}",
        title_justify="left",
    )
    made.add_column("strategy", overflow="fold", min_width=34)
    priced, gaps = found.undisturbed.cost is not None, found.noise is not None
    columns = ["memory/node", "of it log", "s/iteration", "hours", "longer by", "losses"]
    columns += ["sent/iteration", *["cost"] * priced, *["gap, nats"] * gaps]
    for column in columns:
        made.add_column(column, justify="right")
    made.add_column("", overflow="fold")
    for choice in (found.undisturbed, *found.choices):
        made.add_row(*_cells(choice, found, priced, gaps))
    return made


def _cells(choice: PlanChoice, found: FleetPlan, priced: bool, gaps: bool) -> Iterator[str]:
    longer = max(0.0, choice.hours / found.undisturbed.hours - 1)
    yield choice.label
    yield render_bytes(choice.memory)
    yield render_bytes(choice.log_memory) if choice.log_memory else "–"
    yield _number(choice.iteration, "{:.2f}")
    yield _number(choice.hours, "{:,.4g}")
    yield _number(longer, "{:+.1%}") if choice is not found.undisturbed else "–"
    yield _number(choice.losses * found.iterations, "{:.1f}")
    yield "–" if math.isnan(choice.sent) else render_bytes(choice.sent)
    if priced:
        yield _number(math.nan if choice.cost is None else choice.cost, "{:.2f}")
    if gaps:
        gap = 0.0 if choice.exact else choice.gap
        yield "–" if gap is None else _number(gap, "{:.4f}")
    ended = f"{choice.ended} of {choice.runs} ended" if choice.ended else ""
    yield "; ".join(filter(None, (choice.out, ended)))


def _number(value: float, form: str) -> str:
    return form.format(value) if math.isfinite(value) else "–"


def verdict(found: FleetPlan) -> Iterator[str]:
    """What to take, and what it rests on."""
    if found.searched:
        yield (
            f"Searched by simulated runs, {found.seeds} of {found.simulated} iterations each, on "
            f"the same losses; hours are those of {found.iterations} iterations, begun anew where "
            "a loss ends a run."
        )
    else:
        yield (
            f"By closed forms, of what single losses take: {found.seeds} simulated runs of "
            f"{found.simulated} iterations would meet too few losses to search by. They do not "
            "tell numbers of copies apart."
        )
    if found.waves is not None:
        yield f"Waves: {_interval(found.waves)}; a copy counts after {found.lag}."
    if found.checkpoints is not None:
        yield f"Checkpoints: {_interval(found.checkpoints)}."
    fastest, cheapest = found.fastest, found.cheapest
    if found.noise is None:
        yield "Inexact strategies are not ranked: what they cost in nats is read by --costs REPORT."
    if fastest is None:
        yield "No exact strategy finishes: more --memory, or a fleet that loses less."
        return
    yield f"Fastest of the exact strategies: {fastest.label}, {fastest.hours:,.4g} hours."
    if cheapest is not None:
        yield f"Cheapest of them: {cheapest.label}, {cheapest.cost:.2f}."
    if found.noise is not None:
        yield (
            f"Ranked by gap, where less than {found.noise:.2g} nats, the noise of a reading, is "
            "none, then by hours; gaps are those of the study for as many losses an iteration."
        )


def _interval(found: Interval) -> str:
    forms = ", ".join(
        f"{name} {interval:.1f}" for name, interval in found.forms.items() if interval < math.inf
    )
    return f"every {found.taken} iterations{f' ({forms})' if forms else ''}"

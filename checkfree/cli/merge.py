"""``checkfree merge``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from checkfree.cli.arguments import DONE, Commands, takes_allow
from checkfree.cli.bars import Bars

if TYPE_CHECKING:
    from checkfree.session.merge import Merged


def add(commands: Commands) -> None:
    """Register the command."""
    parser = commands.add_parser("merge", help="average a run's saved states")
    parser.description = (
        "Average the last states that a run has saved (snapshots, checkpoints, final weights), and "
        "keep the average in its folder: init=RUN@NAME begins from it. Losses are told of text "
        "that chose no weight."
    )
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="the folder of a run")
    parser.add_argument("words", nargs="*", metavar="key=value", help="as --resume takes them")
    parser.add_argument("--last", metavar="N", type=int, default=5, help="how many states (5)")
    parser.add_argument(
        "--rule",
        default="uniform",
        help="uniform: the mean (default); metric: by validation loss; search: a linear "
        "combination found by evolution",
    )
    parser.add_argument("--to", metavar="NAME", help="what it is called (default: as the rule)")
    parser.add_argument(
        "--penalty",
        metavar="P",
        type=float,
        help="metric: a loss 1/P nats higher weighs e times less (20)",
    )
    parser.add_argument("--generations", metavar="N", type=int, help="search: how many (12)")
    parser.add_argument("--population", metavar="N", type=int, help="search: of how many (16)")
    parser.add_argument(
        "--microbatches",
        metavar="N",
        type=int,
        help="of the validation text, half to choose by and half to report on (default: twice "
        "validation.microbatches)",
    )
    parser.add_argument("--json", action="store_true", help="print all figures, for programs")
    parser.add_argument("--quiet", action="store_true", help="print the result only")
    takes_allow(parser)
    parser.set_defaults(run=_merge)


def _merge(arguments: argparse.Namespace) -> int:
    from checkfree.session.merge import merge

    with Bars(arguments.quiet or arguments.json) as bars:
        made = merge(
            arguments.run_folder,
            last=arguments.last,
            rule=arguments.rule,
            to=arguments.to,
            penalty=arguments.penalty,
            generations=arguments.generations,
            population=arguments.population,
            microbatches=arguments.microbatches,
            overrides=arguments.words,
            allow=arguments.allow,
            watch=lambda label, steps: bars.piece(label, steps, "forwards of a stage"),
        )
    print(json.dumps(made.plain(), indent=1) if arguments.json else "\n".join(_lines(made)))
    return DONE


def _lines(made: Merged) -> Iterator[str]:
    yield "iteration  kind        weight    loss"
    for place, state in enumerate(made.states):
        loss = "" if made.losses is None else f"{made.losses[place]:.4f}"
        weight = made.weights[place]
        yield f"{state.iteration:>9}  {state.kind:<10}{weight:>8.4f}  {loss}".rstrip()
    if made.loss is None or made.losses is None:
        yield "no loss is told: the run trained modules of your own, on batches of your own"
    else:
        rule = f"{made.rule} average"
        yield f"{rule:>29}  {made.loss:.4f}"
        chose = f"{made.chosen_by} others chose the weights" if made.chosen_by else "none chose"
        yield f"losses of {made.reported_on} sequences of the validation text; {chose}"
    yield f"average in {made.folder}; begin from it by init={made.reference}"

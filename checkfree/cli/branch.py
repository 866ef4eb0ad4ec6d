"""``checkfree branch``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from checkfree.cli.arguments import DONE, Commands, takes_allow
from checkfree.cli.bars import Bars
from checkfree.core.errors import BadInput

if TYPE_CHECKING:
    from checkfree.runtime.recorder import Listener


def add(commands: Commands) -> None:
    """Register the command."""
    parser = commands.add_parser("branch", help="one state, many rules: what each repair costs")
    parser.description = (
        "Kill a stage in a saved run, apply many rules to the same state with the same data after "
        "it, and table the gap of the validation loss to the uninterrupted run. Stopped, it goes "
        "on where it stood; it is quickest where ITERATION and the gaps are multiples of ten."
    )
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="the folder of a run")
    parser.add_argument("--at", metavar="ITERATION", type=int, required=True, help="of the loss")
    parser.add_argument("--stages", required=True, help="as in 2,4: each is killed alone")
    parser.add_argument(
        "--rules", required=True, help="as in 'checkfree,copy,checkpoint(interval=50)'"
    )
    parser.add_argument("--gaps", default="0,10,50,100,200", help="steps after the loss")
    parser.add_argument(
        "--seeds-of-reinit", type=int, default=1, metavar="N", help="initialisations for random"
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="where branches go (default: RUN-at-ITERATION)"
    )
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="branches at a time (default: 1)"
    )
    parser.add_argument("--quiet", action="store_true", help="print the table only")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)  # one branch, in a child
    takes_allow(parser)
    parser.set_defaults(run=_branch)


def _branch(arguments: argparse.Namespace) -> int:
    from checkfree.config.load import split
    from checkfree.report.branches import render
    from checkfree.study.branch import branch_as, grow_one
    from checkfree.study.branching.request import BranchRequest

    request = BranchRequest(
        run=arguments.run_folder,
        at=arguments.at,
        stages=numbers("--stages", arguments.stages),
        rules=tuple(split(arguments.rules)),
        gaps=numbers("--gaps", arguments.gaps),
        reinits=arguments.seeds_of_reinit,
        out=arguments.out,
        allow=tuple(arguments.allow),
    )
    if arguments.only is not None:
        grow_one(request, arguments.only)
        return DONE
    with Bars(arguments.quiet) as bars:
        found = branch_as(request, watch_by(bars), arguments.workers)
    print(render(found), end="")
    print(f"\nTable, CSV, JSON and picture: {request.folder}/branches.*")
    return DONE


def numbers(option: str, text: str) -> tuple[int, ...]:
    """``"2,4"`` -> (2, 4). Raises BadInput."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise BadInput(f"{option} {text}: expected whole numbers, as in 2,4") from None


def watch_by(bars: Bars) -> Callable[[str, int], Listener]:
    """Listeners of records that move bars."""
    from checkfree.core.records import IterationRecord, Record

    def watch(label: str, iterations: int) -> Listener:
        advance = bars.piece(label, iterations)

        def step(record: Record) -> None:
            if isinstance(record, IterationRecord):
                advance()

        return step

    return watch

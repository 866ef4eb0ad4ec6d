"""``checkfree swarm up``: a lead and all seats, as processes of this machine."""

from __future__ import annotations

import argparse

from checkfree.cli.arguments import DONE, Commands
from checkfree.cli.swarm.shared import launch, run_of, takes_run


def add(actions: Commands) -> None:
    """Register the action."""
    parser = actions.add_parser("up", help="start lead and workers on this machine, and train")
    takes_run(parser)
    parser.add_argument(
        "--spares",
        type=int,
        choices=range(9),
        default=1,
        metavar="N",
        help="processes that stand by to take the seat of one that is lost (default 1)",
    )
    parser.add_argument(
        "--link",
        default="",
        metavar="LINK",
        help="emulate slower lines, as in latency=40ms,bandwidth=100Mb, or a file with a line "
        "FROM TO LINK for each pair of seats",
    )
    parser.add_argument(
        "--no-replacements",
        dest="replacements",
        action="store_false",
        help="send nobody to the seat of one that is lost: microbatches go round it as long as "
        "another replica has its stage",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from checkfree.runtime.swarm.transport.links import asked

    spares = arguments.spares if arguments.replacements else 0
    order = {
        "spares": spares,
        "replacements": arguments.replacements,
        "links": asked(arguments.link),
    }
    run = run_of(arguments, "up")
    if run is None:
        return DONE
    return launch(arguments, run, order, lambda home: lambda event: None)

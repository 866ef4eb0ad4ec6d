"""``checkfree swarm up``: a lead and all seats, as processes of this machine."""

from __future__ import annotations

import argparse

from checkfree.cli.arguments import DONE, Commands
from checkfree.cli.swarm.lead import Teller, local_node
from checkfree.cli.swarm.shared import launch, run_of, takes_run
from checkfree.core.errors import BadInput

WAIT = 30.0
"""Seconds that nodes get to come, before the first of them takes all."""


def add(actions: Commands) -> None:
    """Register the action."""
    parser = actions.add_parser("up", help="start lead and workers on this machine, and train")
    takes_run(parser)
    parser.add_argument(
        "--spares",
        type=int,
        choices=range(9),
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
    parser.add_argument(
        "--nodes",
        type=int,
        choices=range(1, 65),
        metavar="K",
        help="as a fleet of K nodes on this machine: each has as many seats as it must, others may "
        "join, and what is lost is a node",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from checkfree.runtime.swarm.transport.links import asked

    if arguments.nodes is not None:
        return _run_fleet(arguments)
    spares = (1 if arguments.spares is None else arguments.spares) if arguments.replacements else 0
    order = {
        "spares": spares,
        "replacements": arguments.replacements,
        "links": asked(arguments.link),
    }
    run = run_of(arguments, "up")
    if run is None:
        return DONE
    return launch(arguments, run, "up", order, Teller.of(arguments.quiet, invites=False))


def _run_fleet(arguments: argparse.Namespace) -> int:
    """A join server that only this machine can come in by, and nodes that do."""
    unfit = {
        "--spares": arguments.spares is not None,
        "--link": bool(arguments.link),
        "--no-replacements": not arguments.replacements,
    }
    for option, given in unfit.items():
        if given:
            raise BadInput(f"--nodes takes no {option}: a fleet's nodes replace each other")
    run = run_of(arguments, "up")
    if run is None:
        return DONE
    workers = [local_node(0, host=f"node-{number}") for number in range(arguments.nodes)]
    order = {
        "spares": 0,
        "workers": workers,
        "join_server": {"host": "127.0.0.1", "port": 0},
        "wait": {"nodes": arguments.nodes, "seconds": WAIT},
    }
    action, told = f"up --nodes {arguments.nodes}", Teller.of(arguments.quiet)
    return launch(arguments, run, action, order, told)

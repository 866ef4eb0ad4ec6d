"""``checkfree swarm join``: take a seat in a run that another machine leads."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from checkfree.cli.arguments import DONE, FAILED, Commands
from checkfree.cli.swarm.shared import check_machine, seconds
from checkfree.errors import BadInput


def add(actions: Commands) -> None:
    """Register the action."""
    parser = actions.add_parser(
        "join",
        help="take a seat in a run that another machine leads",
        description="Takes the seat that is needed most, or stands by. Ctrl-C or SIGTERM: hands "
        "its state on, then leaves; twice: at once.",
    )
    parser.add_argument("address", metavar="ADDRESS", help="as checkfree swarm lead printed it")
    parser.add_argument(
        "--token", metavar="T", help="what it printed beside; or set CHECKFREE_TOKEN, or:"
    )
    parser.add_argument("--token-file", metavar="FILE", type=Path, help="a file with the token")
    parser.add_argument(
        "--data-path", metavar="PATH", help="where data.path of the run is on this machine"
    )
    parser.add_argument(
        "--listen",
        default="0.0.0.0:0",
        metavar="HOST:PORT",
        help="where the others call (default: every address of this machine, any free port)",
    )
    parser.add_argument(
        "--retry",
        type=seconds,
        metavar="SECONDS",
        help="for which a lead that does not answer is tried (default 20 at first, 600 once we "
        "were a member)",
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing but what went wrong")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from checkfree.runtime.swarm.joining.camp import pitched
    from checkfree.runtime.swarm.joining.invitation import (
        TOKEN_VARIABLE,
        given_token,
        listen_address,
        parse_listen,
        parse_place,
    )

    place, token = parse_place(arguments.address), arguments.token
    secret = given_token(token, arguments.token_file)
    listen = listen_address(*parse_listen(arguments.listen))
    check_machine("join")
    os.environ.pop(TOKEN_VARIABLE, None)
    os.environ.setdefault("HIVEMIND_LOGLEVEL", "ERROR")
    from checkfree.build.nursery import cannot_import

    try:
        from checkfree.build.join import Pass, join, to_stderr
        from checkfree.runtime.swarm.joining.guest import After
    except ImportError as error:
        raise BadInput(cannot_import(error)) from None

    say = (lambda text: None) if arguments.quiet else to_stderr
    with pitched(secret) as camp:
        entry = Pass(place, secret, listen, arguments.retry)
        after = join(camp, entry, arguments.data_path, say)
    return FAILED if after is After.BROKEN else DONE

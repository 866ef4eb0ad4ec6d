"""``checkfree verify``."""

from __future__ import annotations

import argparse
from pathlib import Path

from checkfree.cli.arguments import DONE, Commands, takes_allow
from checkfree.cli.bars import Bars


def add(commands: Commands) -> None:
    """Register the command."""
    parser = commands.add_parser("verify", help="train a recorded run again, to the last bit")
    parser.description = (
        "Train a recorded run again in one process: the same members, losses and repairs, from its "
        "plans; and check that every loss is the same bit for bit."
    )
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="the folder of a run")
    parser.add_argument("--out", metavar="DIR", type=Path, help="keep what is trained as a run")
    parser.add_argument("--quiet", action="store_true", help="print the result only")
    takes_allow(parser)
    parser.set_defaults(run=_verify)


def _verify(arguments: argparse.Namespace) -> int:
    from checkfree.core.records import of_kind
    from checkfree.session.verify import equal, failed, recording, verify_recording

    run = recording(arguments.run_folder, arguments.allow)
    with Bars(arguments.quiet) as bars:
        watch = bars.piece("verify", len(of_kind(run.records, "iteration")))
        outcome = verify_recording(run, arguments.out, watch)
    if outcome.difference:
        raise failed(run, outcome)
    print(equal(outcome))
    return DONE

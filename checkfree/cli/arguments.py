"""What commands have in common: exit codes, and how a configuration is given."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from checkfree.cli.interrupts import EXIT_CODE

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Commands = object

DONE, FAILED, BAD_INPUT, AGAIN, INTERRUPTED = 0, 1, 2, 75, EXIT_CODE
"""The table of docs/reference/commands.md. AGAIN is EX_TEMPFAIL of sysexits.h: start me again."""


def takes_config(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """A configuration, and words over it: every command that reads one takes both."""
    parser.add_argument(
        "config",
        nargs=None if required else "?",
        metavar="CONFIG",
        help="a YAML file, or the name of one that ships (demo)",
    )
    parser.add_argument("words", nargs="*", metavar="key=value", help="as in iterations=100")
    takes_allow(parser)


def takes_allow(parser: argparse.ArgumentParser) -> None:
    """Whose code a configuration, or a run, may name: what this command line itself names needs no
    leave."""
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a strategy of your own, module:Class, may be of this package",
    )

"""``checkfree schedule``."""

from __future__ import annotations

import argparse
from pathlib import Path

from checkfree.cli.arguments import DONE, Commands, takes_config


def add(commands: Commands) -> None:
    """Register the command."""
    parser = commands.add_parser("schedule", help="print and draw a schedule")
    parser.description = "Print the schedule of a configuration as a grid; draw its timeline."
    takes_config(parser, required=True)
    parser.add_argument(
        "--picture",
        metavar="FILE",
        type=Path,
        default=Path("schedule.png"),
        help="where the timeline goes: .png, .svg or .pdf (default: schedule.png)",
    )
    parser.set_defaults(run=_schedule, shows=True)


def _schedule(arguments: argparse.Namespace) -> int:
    from checkfree.config.load import load
    from checkfree.session.show import show_schedule

    print(
        show_schedule(load(arguments.config, arguments.words, arguments.allow), arguments.picture)
    )
    return DONE

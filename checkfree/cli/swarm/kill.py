"""``checkfree swarm kill``: the chaos button."""

from __future__ import annotations

import argparse
from pathlib import Path

from checkfree.cli.arguments import DONE, Commands
from checkfree.cli.swarm.status import question


def add(actions: Commands) -> None:
    """Register the action."""
    parser = actions.add_parser(
        "kill", help="kill a worker, or the lead, of a run that allows it (--chaos)"
    )
    parser.add_argument(
        "folder", metavar="RUN", type=Path, help="the folder of a run that this machine leads"
    )
    parser.add_argument("seat", metavar="SEAT", help="as in 2.0, or lead")
    parser.add_argument("--signal", default="KILL", help="KILL (default), STOP or CONT")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    request = {"ask": "kill", "seat": arguments.seat, "signal": arguments.signal.upper()}
    told = question(arguments.folder, request)
    where = f"pid {told['pid']}" if told["pid"] else "a process that joined: its life there is over"
    print(f"SIG{request['signal']} to {told['killed']}, life {told['life']}, {where}")
    return DONE

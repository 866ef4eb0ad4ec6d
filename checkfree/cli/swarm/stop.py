"""``checkfree swarm stop``: put aside what is trained, and end."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from checkfree.cli.arguments import DONE, FAILED, Commands
from checkfree.cli.swarm.status import question

LOOK_EVERY = 0.2  # seconds


def add(actions: Commands) -> None:
    """Register the action."""
    parser = actions.add_parser(
        "stop",
        help="end a run, with a snapshot to go on from",
        description="Ends lead and launcher with a snapshot of the last committed iteration. Nodes "
        "that joined keep their states and look for the lead, ten minutes unless they were told "
        "otherwise: --resume goes on with them. --all ends them too.",
    )
    parser.add_argument(
        "folder", metavar="RUN", type=Path, help="the folder of a run that this machine leads"
    )
    parser.add_argument("--all", action="store_true", help="end the nodes that joined, too")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from checkfree.core.records import of_kind, read
    from checkfree.runtime.swarm.processes.workdir import Workdir

    question(arguments.folder, {"ask": "stop", "all": arguments.all})
    while Workdir.of(arguments.folder).alive:  # its launcher sees to it that this ends
        time.sleep(LOOK_EVERY)
    ends = of_kind(read(arguments.folder), "end")
    if not ends or ends[-1]["status"] == "failed":
        print(f"{arguments.folder} ended before it could be stopped: see its records")
        return FAILED
    print(f"{arguments.folder}: stopped after {ends[-1]['iteration']} iterations")
    return DONE

"""``checkfree swarm move`` and ``drain``: have seats change hands, with their exact states."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from checkfree.cli.arguments import DONE, FAILED, Commands
from checkfree.cli.swarm.status import question

LOOK_EVERY = 0.2  # seconds


def add(actions: Commands) -> None:
    """Register both actions."""
    move = actions.add_parser(
        "move",
        help="have another node take a seat",
        description="Has a seat of a running swarm change hands, with its exact state: no "
        "iteration is lost or repeated.",
    )
    move.add_argument(
        "folder", metavar="RUN", type=Path, help="the folder of a run that this machine leads"
    )
    move.add_argument("seat", metavar="SEAT", help="as in 2.0")
    move.add_argument(
        "host", metavar="HOST", nargs="?", help="where to (default: where it is best)"
    )
    _takes_patience(move)
    move.set_defaults(run=_move)
    drain = actions.add_parser(
        "drain",
        help="have a machine hand on all its seats, and leave",
        description="Has all nodes of a machine hand on what they have to others, then end: as a "
        "SIGTERM to each of them does. What nobody can take waits on the lead's machine.",
    )
    drain.add_argument(
        "folder", metavar="RUN", type=Path, help="the folder of a run that this machine leads"
    )
    drain.add_argument("host", metavar="HOST", help="as checkfree swarm status lists it")
    _takes_patience(drain)
    drain.set_defaults(run=_drain)


def _takes_patience(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--within",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="to wait until it is done (default 60)",
    )


def _move(arguments: argparse.Namespace) -> int:
    seat, host = arguments.seat, arguments.host
    asked = question(arguments.folder, {"ask": "move", "seat": seat, "host": host})
    until = time.monotonic() + arguments.within
    while time.monotonic() < until:
        status = question(arguments.folder, {"ask": "status"})
        node = next((node for node in status["nodes"] if seat in node["seats"]), None)
        now_there = status["processes"][seat]  # between two lives the nodes may be those before
        if node is not None and now_there["process"] and now_there["life"] > asked["life"]:
            print(f"{seat} moved from {asked['origin']} to {node['host']}")
            return DONE
        refused = _refusal(status, seat, asked["events"])
        if refused:
            print(f"{seat} stays on {asked['origin']}: {refused}")
            return FAILED
        time.sleep(LOOK_EVERY)
    print(f"{seat} did not move within {arguments.within:g} s: checkfree swarm status tells more")
    return FAILED


def _refusal(status: Mapping[str, Any], seat: str, since: int) -> str:
    """Why it can't be, as the lead has said since so many events."""
    for event in reversed(status["events"]):
        if (event["event"], event.get("seat")) == ("stays", seat) and event["number"] >= since:
            return str(event["why"])
    return ""


def _drain(arguments: argparse.Namespace) -> int:
    host = arguments.host
    question(arguments.folder, {"ask": "drain", "host": host})
    until = time.monotonic() + arguments.within
    while time.monotonic() < until:
        status = question(arguments.folder, {"ask": "status"})
        if all(node["host"] != host for node in status["nodes"]):
            print(f"{host} has no part in {arguments.folder} any more")
            return DONE
        time.sleep(LOOK_EVERY)
    print(
        f"{host} was not drained within {arguments.within:g} s: checkfree swarm status tells more"
    )
    return FAILED

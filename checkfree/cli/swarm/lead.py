"""``checkfree swarm lead``: lead a run that processes of other machines join."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from checkfree.cli.arguments import DONE, Commands
from checkfree.cli.swarm.shared import launch, run_of, takes_run


def add(actions: Commands) -> None:
    """Register the action."""
    parser = actions.add_parser("lead", help="lead a run that other machines join")
    takes_run(parser)
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        help="where others call (default 0.0.0.0:0: every address of this machine, any free "
        "port); with --resume as before",
    )
    parser.add_argument(
        "--workers",
        type=int,
        choices=range(65),
        default=0,
        metavar="N",
        help="processes of this machine that take seats too (default 0)",
    )
    parser.add_argument(
        "--wait",
        type=_wait,
        default={},
        metavar="NODES|SECONDS",
        help="before the first iteration: until so many nodes are there (4), or for so long after "
        "the first (30s, the default is 5s); never longer than until each seat can have a node",
    )
    parser.add_argument(
        "--grace",
        type=_grace,
        default=15.0,
        metavar="SECONDS",
        help="that a node which fell silent gets to come back with its states before anything "
        "inexact stands in for them (default 15; 0: it doesn't)",
    )
    parser.set_defaults(run=_run)


def _wait(text: str) -> dict[str, float]:
    """``4`` nodes or ``30s``."""
    number = text.removesuffix("s")
    if not number.isdecimal() or int(number) > 86400 or (number == text and int(number) < 1):
        raise argparse.ArgumentTypeError(f"got {text}, expected nodes (4) or seconds (30s)")
    return (
        {"seconds": float(number)}
        if text.endswith("s")
        else {
            "nodes": int(number),
            "seconds": float("inf"),
        }
    )


def _grace(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"got {text}, expected 0 to 3600 seconds")
    return value


def _run(arguments: argparse.Namespace) -> int:
    from checkfree.runtime.swarm.joining.invitation import parse_listen

    where: dict[str, Any] = {"host": None, "port": None}
    if arguments.listen is not None:
        where["host"], where["port"] = parse_listen(arguments.listen)
    run = run_of(arguments, "lead")
    if run is None:
        return DONE
    more = {"spares": 0, "workers": arguments.workers, "door": where}
    more |= {"wait": arguments.wait, "grace": arguments.grace}
    return launch(arguments, run, more, lambda home: _Teller(home.secret, arguments.quiet))


class _Teller:
    """Prints the join line once, and who is missing whenever that changes."""

    def __init__(self, secret: Any, quiet: bool):
        self._secret, self._quiet = secret, quiet
        self._line = self._waiting = ""

    def __call__(self, event: Mapping[str, Any]) -> None:
        match event:
            case {"event": "listening", "peer": peer}:
                self._tell_line(peer)
            case {"event": "notice", "why": str(why)}:
                print(f"checkfree: {why}", file=sys.stderr, flush=True)
            case {"event": "waiting"}:
                self._tell_missing(event)

    def _tell_line(self, peer: Any) -> None:
        from checkfree.runtime.swarm.joining.invitation import Place, best_first, join_line
        from checkfree.runtime.swarm.transport.frames import Peer

        found = Peer.from_json(peer)
        line = join_line(Place(found.id, best_first(found.addresses)), self._secret())
        if line != self._line:
            print(line, flush=True)
        self._line = line

    def _tell_missing(self, event: Mapping[str, Any]) -> None:
        vacant, stages = event["vacant"], event["stages"]
        waits = f"; nobody has stage {', '.join(map(str, stages))}: it waits" if stages else ""
        told = f"vacant: {', '.join(vacant)}{waits}" if vacant else "every seat is taken"
        told += f"; {event['spares']} stand by" if event["spares"] else ""
        if told != self._waiting and not self._quiet:
            print(f"checkfree: {told}", file=sys.stderr, flush=True)
        self._waiting = told

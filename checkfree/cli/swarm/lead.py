"""``checkfree swarm lead``: lead a run that processes of other machines join."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from checkfree.cli.arguments import DONE, Commands
from checkfree.cli.swarm.shared import launch, number, run_of, takes_run
from checkfree.runtime.swarm.presence.liveness import GRACE, RELAY
from checkfree.runtime.swarm.told import render_waiting, tell

if TYPE_CHECKING:
    from checkfree.runtime.swarm.processes.workdir import Workdir


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
        help="processes of this machine that take a seat each, as any node (default 0)",
    )
    parser.add_argument(
        "--seats",
        type=int,
        choices=range(65),
        default=0,
        metavar="MAX",
        help="seats that this machine takes at most, while no other can have them or another is "
        "slow (default 0)",
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
        type=number(0, 3600, "seconds"),
        default=GRACE,
        metavar="SECONDS",
        help="that a node which fell silent gets to come back with its states before anything "
        f"inexact stands in for them (default {GRACE:g}; 0: it doesn't)",
    )
    parser.add_argument(
        "--relay",
        type=number(0, 1 << 20, "GiB"),
        default=RELAY >> 30,
        metavar="GIB",
        help="that the lead passes on for two nodes that can't reach each other, until one of them "
        f"has another seat (default {RELAY >> 30})",
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


def _run(arguments: argparse.Namespace) -> int:
    from checkfree.runtime.swarm.transport.addresses import parse_listen

    where: dict[str, Any] = {"host": None, "port": None}
    if arguments.listen is not None:
        where["host"], where["port"] = parse_listen(arguments.listen)
    run = run_of(arguments, "lead")
    if run is None:
        return DONE
    workers = [local_node(1)] * arguments.workers
    if arguments.seats:
        workers.append(local_node(arguments.seats, reserve=True))
    more = {"spares": 0, "workers": workers, "join_server": where}
    relay = int(arguments.relay * (1 << 30))
    more |= {"wait": arguments.wait, "grace": arguments.grace, "relay": relay}
    return launch(arguments, run, "lead", more, Teller.of(arguments.quiet))


def local_node(room: int, *, host: str = "", reserve: bool = False) -> dict[str, Any]:
    """A node of this machine, as the fork server is told. ``room`` 0: for all seats; ``host`` "":
    the machine's name."""
    return {"room": room, "host": host, "reserve": reserve}


TOLD = {
    "lost": "is lost",
    "left": "left",
    "stays": "stays",
    "moves": "changes hands",
    "apart": "is apart",
    "slow": "is slow",
}
"""How what becomes of a seat is told."""


REMIND_EVERY = 25.0
"""Seconds between two lines that say the same, but for how long it is so."""


class Teller:
    """Prints the join line once, if others are invited, who is lost and why, and who is missing
    whenever that changes, or for long."""

    def __init__(self, secret: Any, quiet: bool, invites: bool = True):
        self._secret, self._quiet, self._invites = secret, quiet, invites
        self._line = self._waiting = ""
        self._said_at = 0.0

    @classmethod
    def of(cls, quiet: bool, *, invites: bool = True) -> Callable[[Workdir], Teller]:
        """For ``launch``."""
        return lambda workdir: cls(workdir.secret, quiet, invites)

    def __call__(self, event: Mapping[str, Any]) -> None:
        match event:
            case {"event": "listening", "peer": peer} if self._invites:
                self._tell_line(peer)
            case {"event": "notice", "why": str(why)}:
                tell(why)
            case {"event": "waiting"}:
                self._tell_missing(event)
            case {"event": str(what), "seat": seat, "why": why} if what in TOLD:
                self._say(f"{seat} {TOLD[what]}{f': {why}' if why else ''}")

    def _tell_line(self, peer: Any) -> None:
        from checkfree.runtime.swarm.joining.invitation import join_line
        from checkfree.runtime.swarm.transport.addresses import Place, best_first
        from checkfree.runtime.swarm.transport.frames import Peer

        found = Peer.from_json(peer)
        line = join_line(Place(found.id, best_first(found.addresses)), self._secret())
        if line != self._line:
            print(line, flush=True)
        self._line = line

    def _tell_missing(self, event: Mapping[str, Any]) -> None:
        what, now = render_waiting({**event, "seconds": 0}), event["since"] + event["seconds"]
        again = event["stages"] and now - self._said_at >= REMIND_EVERY
        if what != self._waiting or again:
            self._say(render_waiting(event))
            self._waiting, self._said_at = what, now

    def _say(self, text: str) -> None:
        if not self._quiet:
            tell(text)

"""``checkfree swarm status``: who sits where, and how far the run is."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from checkfree.cli.arguments import DONE, Commands
from checkfree.cli.swarm.shared import as_joiner, secret_of
from checkfree.core.errors import BadInput
from checkfree.core.live import LiveStatus, render_replays, render_unprotected
from checkfree.core.units import render_seconds
from checkfree.runtime.swarm.told import render_waiting


def add(actions: Commands) -> None:
    """Register the action."""
    parser = actions.add_parser(
        "status",
        help="who sits where, and how far the run is",
        description="Asks the launcher of a run of this machine, or, by the address of its lead or "
        "of any member, the lead of one elsewhere.",
    )
    parser.add_argument(
        "run_or_address",
        metavar="RUN|ADDRESS",
        help="the folder of a run that this machine leads, or what swarm lead printed",
    )
    parser.add_argument("--token", metavar="T", help="of the join line; or CHECKFREE_TOKEN, or:")
    parser.add_argument("--token-file", metavar="FILE", type=Path, help="a file with the token")
    parser.add_argument("--json", action="store_true", help="all of it, for programs")
    parser.set_defaults(run=_run, shows=True)


def question(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """The launcher's answer. What a dead one left is swept first. Raises BadInput."""
    from checkfree.runtime.swarm.processes.control import ask
    from checkfree.runtime.swarm.processes.workdir import Workdir

    workdir = Workdir.of(folder)
    if is_address(str(folder)):
        raise BadInput(
            f"got address {folder}, expected the folder of a run, on the machine that leads it; "
            "by an address it is checkfree swarm status that can be asked"
        )
    if not workdir.alive:
        swept = workdir.kill_leftovers() if workdir.path.is_dir() else 0
        workdir.clear(keep_logs=True)
        told = f"; {swept} leftover processes were killed" if swept else ""
        raise BadInput(f"{folder} is no swarm that is up{told}")
    return ask(workdir, request)


def is_address(text: str) -> bool:
    """It names a run of another machine, no folder of this one."""
    from checkfree.runtime.swarm.transport.addresses import looks_like_an_address

    return looks_like_an_address(text) and not Path(text).exists()


def _run(arguments: argparse.Namespace) -> int:
    if is_address(arguments.run_or_address):
        secret = secret_of(arguments)
        with as_joiner("status", arguments.run_or_address, secret) as (workdir, entry):
            from checkfree.session.swarm.member import status

            told = status(workdir, entry)
    else:
        told = question(Path(arguments.run_or_address), {"ask": "status"})
    if arguments.json:
        print(json.dumps(told))
    else:
        print("\n".join(_lines(told)))
    return DONE


def _lines(told: Mapping[str, Any]) -> Iterator[str]:
    from checkfree.runtime.swarm.presence.pulses import render_dropped

    if "iteration" in told:
        pace = f"loss {told['loss']:.4f}, {told['seconds']:.2f} s each"
        share = told.get("goodput")
        good = "" if share is None else f", goodput {share:.1%}"
        yield f"iteration {told['iteration']}, {pace}{good}"
    live = LiveStatus.from_json(told)
    if live.replays:
        yield render_replays(live.replays)
    if live.unprotected is not None:
        yield _protection(live.unprotected)
    yield from _replayable(told)
    waiting = told.get("waiting")
    if waiting is not None and waiting["vacant"]:
        yield render_waiting(waiting)
    dropped = render_dropped(told.get("dropped", {}))
    if dropped:
        yield dropped
    nodes, states, busy = told.get("nodes", ()), told.get("seats", {}), told.get("busy", {})
    host = {seat: node["host"] for node in nodes for seat in node["seats"]}
    for seat, child in told.get("processes", {}).items():
        seconds = f"{busy[seat]:.3g} s" if seat in busy else ""
        yield f"{_line(seat, child, states)}  {seconds:8} {host.get(seat, '')}".rstrip()
    for node in nodes:
        yield _node(node, told.get("lines", {}).get(node["id"]))
    if "processes" not in told:
        yield from (f"{seat:>8}  computes {seconds:.3g} s" for seat, seconds in busy.items())


def _protection(unprotected: Mapping[int, int]) -> str:
    """What a loss would cost, where stages are replayed."""
    if not unprotected:
        return "any stage that is lost now is replayed, to the last bit"
    return f"no replay could give back {render_unprotected(unprotected)}"


def _replayable(told: Mapping[str, Any]) -> Iterator[str]:
    """Which stages can be replayed from which version, those that are alike in one line; and which
    machines can't be lost as a whole."""
    alike: dict[str, list[str]] = {}
    for stage, how in (told.get("replayable") or {}).items():
        within = "" if how["seconds"] is None else f", about {render_seconds(how['seconds'])}"
        alike.setdefault(f"replayable from {how['version']}{within}", []).append(stage)
    for line, stages in alike.items():
        yield f"stage{'s' * (len(stages) > 1)} {', '.join(stages)}: {line}"
    if machines := told.get("fatal"):
        yield f"not everything of {', '.join(machines)} could be replayed now"


def _node(node: Mapping[str, Any], line: float | None) -> str:
    """A machine, its seats and where it is called; ``line``: seconds for which an iteration takes
    its line to the others, if that was measured."""
    zone = f" in {node['zone']}" if node["zone"] else ""
    seats = ", ".join(node["seats"]) or "no seat"
    of = f"{seats} of at most {node['room']}{' (reserve)' if node['reserve'] else ''}"
    spares = f"; {node['spares']} stand by" if node["spares"] else ""
    taken = f"; its line {line:.2g} s an iteration" if line is not None else ""
    addresses = [address for found in node["seats"].values() for address in found[:1]]
    return (
        f"{node['host']}{zone}: {of}{spares}{taken}{'  ' if addresses else ''}{' '.join(addresses)}"
    )


def _line(seat: str, child: Mapping[str, Any], states: Mapping[str, str]) -> str:
    default = {"lead": "leads"}.get(seat, "runs" if seat.startswith("worker-") else "joins")
    state = states.get(seat, default) if child["process"] else "lost"
    where = f"pid {child['pid']}" if child["pid"] else "elsewhere"
    life = f"life {child['life']}" if child["life"] else ""
    return f"{seat:>8}  {state:8} {where:<12} {life}".rstrip()

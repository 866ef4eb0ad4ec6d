"""``checkfree swarm status``: who sits where, and how far the run is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from checkfree.cli.arguments import DONE, Commands
from checkfree.errors import BadInput


def add(actions: Commands) -> None:
    """Register the action."""
    parser = actions.add_parser("status", help="who sits where, and how far the run is")
    parser.add_argument("folder", metavar="RUN", type=Path)
    parser.add_argument("--json", action="store_true", help="all of it, for programs")
    parser.set_defaults(run=_run)


def question(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """The launcher's answer. What a dead one left is swept first. Raises BadInput."""
    from checkfree.runtime.swarm.processes.control import ask
    from checkfree.runtime.swarm.processes.home import Home

    home = Home.of(folder)
    if not home.alive:
        swept = home.sweep() if home.path.is_dir() else 0
        home.clear(keep_logs=True)
        told = f"; {swept} leftover processes were killed" if swept else ""
        raise BadInput(f"{folder} is no swarm that is up{told}")
    return ask(home, request)


def _run(arguments: argparse.Namespace) -> int:
    from checkfree.runtime.swarm.presence.pulses import render_dropped

    told = question(arguments.folder, {"ask": "status"})
    if arguments.json:
        print(json.dumps(told))
        return DONE
    if "iteration" in told:
        print(
            f"iteration {told['iteration']}, loss {told['loss']:.4f}, {told['seconds']:.2f} s each"
        )
    dropped = render_dropped(told.get("dropped", {}))
    if dropped:
        print(dropped)
    states = told.get("seats", {})
    host = {seat: node["host"] for node in told["nodes"] for seat in node["seats"]}
    for seat, child in told["processes"].items():
        busy = f"  {told['busy'][seat]:.3g} s" if seat in told.get("busy", {}) else ""
        print(f"{_line(seat, child, states)}{busy}  {host.get(seat, '')}".rstrip())
    for node in told["nodes"]:
        print(_node(node))
    return DONE


def _node(node: dict[str, Any]) -> str:
    """A machine, its seats and where it is called."""
    zone = f" in {node['zone']}" if node["zone"] else ""
    seats = ", ".join(node["seats"]) or "no seat"
    of = f"{seats} of at most {node['room']}{' (reserve)' if node['reserve'] else ''}"
    spares = f"; {node['spares']} stand by" if node["spares"] else ""
    addresses = [address for found in node["seats"].values() for address in found[:1]]
    return f"{node['host']}{zone}: {of}{spares}{'  ' if addresses else ''}{' '.join(addresses)}"


def _line(seat: str, child: dict[str, Any], states: dict[str, str]) -> str:
    default = {"lead": "leads"}.get(seat, "runs" if seat.startswith("worker-") else "joins")
    state = states.get(seat, default) if child["process"] else "lost"
    where = f"pid {child['pid']}" if child["pid"] else "elsewhere"
    life = f"life {child['life']}" if child["life"] else ""
    return f"{seat:>8}  {state:8} {where:<12} {life}".rstrip()

"""``checkfree swarm``: up, lead, join, status, move, drain, stop, kill."""

from __future__ import annotations

from checkfree.cli.arguments import Commands
from checkfree.cli.swarm import join, kill, lead, move, status, stop, up

ACTIONS = (up, lead, join, status, move, stop, kill)
"""Modules with ``add(actions)``, in the order in which the help lists them."""


def add(commands: Commands) -> None:
    """Register the command."""
    parser = commands.add_parser("swarm", help="train across processes that may disappear")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    for action in ACTIONS:
        action.add(actions)

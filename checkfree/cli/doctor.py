"""``checkfree doctor``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from checkfree.cli.arguments import BAD_INPUT, DONE, Commands, takes_config
from checkfree.cli.swarm.shared import (
    ANYWHERE,
    as_joiner,
    check_machine,
    secret_of,
    takes_log_path,
)
from checkfree.core.errors import BadInput

if TYPE_CHECKING:
    from checkfree.runtime.swarm.processes.workdir import Workdir
    from checkfree.session.swarm.doctor import Check
    from checkfree.session.swarm.member import JoinOptions


ANSWER_WITHIN = 10.0  # seconds


def add(commands: Commands) -> None:
    """Register the command."""
    parser = commands.add_parser("doctor", help="see whether this machine can take part in a swarm")
    parser.description = (
        "Look at everything that a swarm needs of this machine, and say how to mend what is "
        "missing. With a CONFIG also at its data, memory and disk. Exit code 2 if anything is."
    )
    takes_config(parser, required=False)
    parser.add_argument(
        "--listen", metavar="HOST:PORT", help="where swarm lead or join is to listen"
    )
    parser.add_argument("--join", metavar="ADDRESS", help="a swarm: does it answer, and call us?")
    parser.add_argument("--token", metavar="T", help="its token; or set CHECKFREE_TOKEN, or:")
    parser.add_argument("--token-file", metavar="FILE", type=Path, help="a file with the token")
    parser.add_argument("--data-path", metavar="PATH", help="where its data are on this machine")
    parser.add_argument(
        "--model-path", metavar="PATH", help="where its pretrained weights are on this machine"
    )
    takes_log_path(parser)
    parser.set_defaults(run=_doctor, shows=True)


def _doctor(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from checkfree.cli.secrecy import hide
    from checkfree.session.swarm.doctor import look

    hide(arguments.token)
    os.environ.setdefault("HIVEMIND_LOGLEVEL", "ERROR")
    console, sick = Console(highlight=False), 0
    for finding in look(_checks(arguments)):
        mark = "[red]✗[/]" if finding.problem else "[green]✓[/]"
        console.print(f"{mark} {finding.name}:", end=" ")
        console.print(finding.problem or finding.told, markup=False, soft_wrap=True)
        sick += bool(finding.problem)
    if sick:
        console.print(f"{sick} to mend")
    return BAD_INPUT if sick else DONE


def _checks(arguments: argparse.Namespace) -> Iterator[Check]:
    from checkfree.config.load import load
    from checkfree.session.swarm.doctor import of_machine, of_run

    config = load(arguments.config, arguments.words, arguments.allow) if arguments.config else None
    yield from of_machine()
    yield "libp2p daemon", _daemon
    if arguments.listen is not None:
        yield "port", lambda: _port(arguments.listen)
    if config is not None:
        yield from of_run(config)
    if arguments.join is not None:
        secret = cache(lambda: secret_of(arguments))
        yield "swarm", lambda: _inquire(arguments, secret())
        yield "reached from there", lambda: _called_back(arguments, secret())


def _daemon() -> str:
    return _try_daemon(ANYWHERE)


def _try_daemon(listen: str) -> str:
    """As ``swarm join`` starts it. Raises BadInput."""
    from checkfree.runtime.swarm.transport.addresses import listen_address, parse_listen
    from checkfree.session.swarm.fork_server import cannot_import

    at = listen_address(*parse_listen(listen))
    check_machine("join")
    try:
        from checkfree.runtime.swarm.joining.trial import try_daemon
    except ImportError as error:
        raise BadInput(cannot_import(error)) from None
    return try_daemon(at)


def _inquire(arguments: argparse.Namespace, secret: bytes) -> str:
    with _entering(arguments, secret) as (workdir, entry):
        from checkfree.session.swarm.member import NodeOptions, inquire

        options = NodeOptions(
            data=arguments.data_path, model=arguments.model_path, logs=arguments.log_path
        )
        return inquire(workdir, entry, options)


def _called_back(arguments: argparse.Namespace, secret: bytes) -> str:
    with _entering(arguments, secret) as (workdir, entry):
        from checkfree.session.swarm.member import called_back

        return called_back(workdir, entry)


@contextmanager
def _entering(
    arguments: argparse.Namespace, secret: bytes
) -> Iterator[tuple[Workdir, JoinOptions]]:
    """As ``swarm join`` would. Raises BadInput."""
    listen = arguments.listen or ANYWHERE
    with as_joiner("join", arguments.join, secret, listen) as (workdir, entry):
        yield workdir, replace(entry, retry=ANSWER_WITHIN, allow=tuple(arguments.allow))


def _port(listen: str) -> str:
    _try_daemon(listen)
    return f"{listen} can be listened at"

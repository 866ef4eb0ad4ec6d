"""``checkfree swarm join``: take a seat in a run that another machine leads."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from checkfree.cli.arguments import AGAIN, Commands, takes_allow
from checkfree.cli.swarm.shared import ANYWHERE, as_joiner, seconds, secret_of, takes_log_path
from checkfree.core.errors import BadInput
from checkfree.runtime.swarm.told import tell


def add(actions: Commands) -> None:
    """Register the action."""
    parser = actions.add_parser(
        "join",
        help="take seats in a run that another machine leads",
        description="Takes the seats that are needed most, or stands by. One seat a process: "
        "further ones only while nobody else can, and they are handed on when somebody comes. "
        "Ctrl-C or SIGTERM: hands its states on, then leaves; twice: at once.",
    )
    parser.add_argument("address", metavar="ADDRESS", help="as checkfree swarm lead printed it")
    parser.add_argument(
        "--token", metavar="T", help="what it printed beside; or set CHECKFREE_TOKEN, or:"
    )
    parser.add_argument("--token-file", metavar="FILE", type=Path, help="a file with the token")
    parser.add_argument(
        "--seats",
        type=_count,
        metavar="MAX",
        help="seats that this node takes at most (default: what its memory is good for, 1 on a "
        "GPU); 0: a spare, which takes one only where nobody else can, or another is slow",
    )
    parser.add_argument(
        "--host", metavar="NAME", help="what is lost with this node (default: the machine's name)"
    )
    parser.add_argument(
        "--zone", metavar="NAME", default="", help="where it stands: what may be lost together"
    )
    parser.add_argument(
        "--device", metavar="DEVICE", help="where it computes: cpu, cuda:1 (default: the run's)"
    )
    parser.add_argument(
        "--data-path",
        metavar="PATH",
        help="where data.path of the run is on this machine; only who has stage 0 needs data",
    )
    takes_log_path(parser)
    parser.add_argument(
        "--model-path",
        metavar="PATH",
        help="where model.path of the run is on this machine, if it begins with pretrained weights",
    )
    parser.add_argument(
        "--listen",
        default=ANYWHERE,
        metavar="HOST:PORT",
        help="where the others call (default: every address of this machine, any free port); "
        "further seats have the ports after it",
    )
    parser.add_argument(
        "--retry",
        type=seconds,
        metavar="SECONDS",
        help="for which a lead that does not answer is tried (default 20 at first, 600 once we "
        "were a member)",
    )
    parser.add_argument(
        "--notice-seconds",
        type=seconds,
        metavar="S",
        help="that this node has from a SIGTERM on: an iteration that can't end by then is broken "
        "off, so that its states are handed on in time",
    )
    parser.add_argument(
        "--notice",
        metavar="SOURCE",
        help="who tells of this machine's end: auto (whose cloud it is), aws, gcp, azure, "
        "file:PATH (once it is there), cmd:COMMAND (once it succeeds); then it leaves as at a "
        "SIGTERM, within the time that is left",
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing but what went wrong")
    takes_allow(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from checkfree.runtime.swarm.joining.notices import checked

    if arguments.notice is not None:
        checked(arguments.notice)
    host, zone = _name(arguments.host or ""), _name(arguments.zone)
    say = (lambda text: None) if arguments.quiet else tell
    secret = secret_of(arguments)
    with as_joiner("join", arguments.address, secret, arguments.listen) as (workdir, entry):
        from checkfree.session.swarm.member import NodeOptions, StartAgain, join

        options = NodeOptions(
            arguments.seats,
            data=arguments.data_path,
            model=arguments.model_path,
            device=arguments.device,
            logs=arguments.log_path,
        )
        options = replace(options, host=host or options.host, zone=zone)
        entry = replace(
            entry,
            retry=arguments.retry,
            notice=arguments.notice_seconds,
            watched=arguments.notice,
            allow=tuple(sorted(arguments.allow)),
        )
        try:
            return join(workdir, entry, options, say)
        except StartAgain as error:
            tell(str(error))
            return AGAIN


def _count(text: str) -> int:
    """Of seats."""
    from checkfree.runtime.swarm.placement.nodes import MOST_SEATS

    if not text.isdecimal() or int(text) > MOST_SEATS:
        raise argparse.ArgumentTypeError(f"got {text}, expected 0 to {MOST_SEATS} seats")
    return int(text)


def _name(text: str) -> str:
    """Of a host or a zone. Raises BadInput."""
    from checkfree.runtime.swarm.placement.nodes import LONGEST_NAME

    if len(text) > LONGEST_NAME or not text.isprintable():
        raise BadInput(f"got name {text!r:.80}, expected at most {LONGEST_NAME} letters")
    return text

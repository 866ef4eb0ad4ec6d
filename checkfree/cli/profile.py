"""``checkfree profile``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from checkfree.cli.arguments import DONE, Commands, takes_config
from checkfree.cli.bars import Bars
from checkfree.core.errors import BadInput


def add(commands: Commands) -> None:
    """Register the command."""
    parser = commands.add_parser("profile", help="measure this machine, for the simulator")
    parser.description = (
        "Measure the seconds of every op of a configuration on this machine and device, for "
        "fleet.profile=FILE. Leave the machine alone meanwhile."
    )
    takes_config(parser, required=True)
    parser.add_argument(
        "--to", metavar="FILE", type=Path, default=Path("profile.json"), help="(profile.json)"
    )
    parser.add_argument(
        "--repeats", metavar="N", type=int, default=20, help="iterations that count (20)"
    )
    parser.add_argument("--quiet", action="store_true", help="print the file's name only")
    parser.set_defaults(run=_profile)


def _profile(arguments: argparse.Namespace) -> int:
    from checkfree.config.load import load
    from checkfree.runtime.folder import write_json
    from checkfree.session.profile import profile

    config = load(arguments.config, arguments.words, arguments.allow)
    if arguments.to.is_dir() or not arguments.to.absolute().parent.is_dir():
        raise BadInput(f"--to {arguments.to}: expected a file in a folder that exists")
    with Bars(arguments.quiet) as bars:
        found = profile(config, arguments.repeats, bars.piece)
    write_json(arguments.to, found)
    if not arguments.quiet:
        print("\n".join(_lines(found)))
    print(f"profile in {arguments.to}; use it as fleet.profile={arguments.to}")
    return DONE


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    from checkfree.core.units import render_bytes

    seconds = found["seconds"]
    yield f"{found['device']}, {found['precision']}, {found['threads']} threads; milliseconds"
    for part in ("embed", "body", "head"):
        figures = (f"{kind} {1000 * value:.3f}" for kind, value in seconds[part].items())
        yield f"{part:>6}: {', '.join(figures)}"
    step, beside = seconds["step"], seconds["iteration_overhead"]
    yield f"  step: edge {1000 * step['edge']:.3f}, body {1000 * step['body']:.3f}"
    message = 1e6 * seconds["message_overhead"]
    yield f"beside ops: {1000 * beside:.3f} per iteration ({message:.1f} µs per message)"
    rates = found["bytes_per_second"]
    yield f"states: copied {render_bytes(rates['copy'])}/s, stored {render_bytes(rates['store'])}/s"

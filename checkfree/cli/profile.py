"""``checkfree profile``."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from checkfree.cli.arguments import DONE, Commands, takes_config
from checkfree.cli.bars import Bars
from checkfree.core.errors import BadInput

LOOK_EVERY = 0.3  # seconds


def add(commands: Commands) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "profile", help="measure this machine, or the lines of a swarm, for the simulator"
    )
    parser.description = (
        "Measure the seconds of every op of a configuration on this machine and device, for "
        "fleet.profile=FILE. Leave the machine alone meanwhile. With --links, latency and "
        "bandwidth of the lines between the machines of a swarm that trains, or waits for others, "
        "for fleet.links=FILE: in place of CONFIG give its folder, or what swarm lead printed."
    )
    takes_config(parser, required=True)
    parser.add_argument("--to", metavar="FILE", type=Path, help="(profile.json, or links.json)")
    parser.add_argument(
        "--repeats", metavar="N", type=int, default=20, help="iterations that count (20)"
    )
    parser.add_argument("--quiet", action="store_true", help="print the file's name only")
    parser.add_argument(
        "--links", action="store_true", help="measure lines: CONFIG is a RUN or an ADDRESS"
    )
    parser.add_argument("--token", metavar="T", help="of the address; or CHECKFREE_TOKEN, or:")
    parser.add_argument("--token-file", metavar="FILE", type=Path, help="a file with the token")
    parser.add_argument(
        "--within", metavar="SECONDS", type=float, default=300.0, help="to measure lines in (300)"
    )
    parser.add_argument("--json", action="store_true", help="print the lines as JSON, no table")
    parser.set_defaults(run=_profile)


def _profile(arguments: argparse.Namespace) -> int:
    from checkfree.config.load import load
    from checkfree.runtime.folder import write_json
    from checkfree.session.profile import profile

    to = arguments.to or Path("links.json" if arguments.links else "profile.json")
    if to.is_dir() or not to.absolute().parent.is_dir():
        raise BadInput(f"--to {to}: expected a file in a folder that exists")
    if arguments.links:
        return _measure_links(arguments, to)
    if arguments.json or arguments.token is not None or arguments.token_file is not None:
        raise BadInput("--json, --token and --token-file go with --links: give it, too")
    config = load(arguments.config, arguments.words, arguments.allow)
    with Bars(arguments.quiet) as bars:
        found = profile(config, arguments.repeats, bars.piece)
    write_json(to, found)
    if not arguments.quiet:
        print("\n".join(_lines(found)))
    print(f"profile in {to}; use it as fleet.profile={to}")
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


# --- lines ---------------------------------------------------------------------------------------


def _measure_links(arguments: argparse.Namespace, to: Path) -> int:
    from checkfree import __version__
    from checkfree.runtime.folder import write_json
    from checkfree.simulator.surveyed import SurveyedFleet

    if arguments.words:
        raise BadInput(f"--links takes a run and no configuration ({arguments.words[0]})")
    told = _surveyed(arguments)
    names = [name for name, *_ in told["machines"]]
    tree = {
        "format": 1,
        "machines": [{"name": name, "seats": seats} for name, *seats in told["machines"]],
        "links": [
            {"from": names[one], "to": names[other], "latency": latency, "bandwidth": bandwidth}
            for one, other, latency, bandwidth in told["lines"]
        ],
    }
    if not told["lines"]:
        where = names[0] if len(names) == 1 else f"{len(names)} machines"
        raise BadInput(f"{arguments.config}: no line could be measured, for all it has is {where}")
    found = SurveyedFleet.from_json(tree)
    tree = found.to_json(__version__)
    write_json(to, tree)
    if arguments.json:
        print(json.dumps(tree))
        return DONE
    if not arguments.quiet:
        print("\n".join(_table(found)))
    print(f"links in {to}; use it as fleet.links={to}")
    return DONE


def _surveyed(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """What a run's members have measured by now. Raises BadInput."""
    from checkfree.cli.swarm.shared import as_joiner, secret_of
    from checkfree.cli.swarm.status import is_address, question

    until = _patient(arguments.within)
    if is_address(arguments.config):
        secret = secret_of(arguments)
        with as_joiner("status", arguments.config, secret) as (workdir, entry):
            from checkfree.session.swarm.member import links

            return links(workdir, entry, until)
    while not until(told := question(Path(arguments.config), {"ask": "links"})):
        time.sleep(LOOK_EVERY)
    return told


def _patient(within: float) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a survey is done, and of now; raises BadInput once that has taken too long. Whoever
    is asked begins one if its last is older than FRESH."""
    from checkfree.runtime.swarm.presence.survey import FRESH

    since = time.monotonic()

    def until(told: Mapping[str, Any]) -> bool:
        passed = time.monotonic() - since
        age = told.get("age")
        if isinstance(age, (int, float)) and age <= FRESH + passed:
            return True
        if passed > within:
            raise BadInput(
                f"its lines were not measured within {within:g} s: give it longer, by --within"
            )
        return False

    return until


def _table(found: Any) -> Iterator[str]:
    from checkfree.core.units import render_bytes, render_seconds

    wide = max(map(len, found.machines))
    for name, seats in found.machines.items():
        yield f"{name:>{wide}}  {', '.join(map(str, seats))}"
    yield ""
    for (one, other), link in found.links.items():
        rate = f"{render_bytes(link.bandwidth)}/s"
        yield f"{one:>{wide}} > {other:<{wide}}  {render_seconds(link.latency):>8}  {rate:>12}"

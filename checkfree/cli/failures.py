"""``checkfree failures sample``, ``checkfree failures import`` and ``checkfree failures show``."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from checkfree.cli.arguments import DONE, Commands, takes_config
from checkfree.core.errors import BadInput

if TYPE_CHECKING:
    from checkfree.failures import Trace


def add(commands: Commands) -> None:
    """Register the commands."""
    failures = commands.add_parser("failures", help="sample, import or show a failure trace")
    kinds = failures.add_subparsers(required=True, metavar="sample|import|show")
    _sample_command(kinds.add_parser("sample", help="write the trace of a configuration"))
    _import_command(kinds.add_parser("import", help="turn a trace of spot instances into one"))
    _show_command(kinds.add_parser("show", help="draw a trace file"))


def _sample_command(parser: argparse.ArgumentParser) -> None:
    parser.description = "Write the failures of a configuration as a trace file."
    takes_config(parser, required=True)
    parser.add_argument("--ticks", type=int, help="how many (default: the run's iterations)")
    parser.add_argument("--to", metavar="FILE", type=Path, help="default: standard output")
    parser.set_defaults(run=_sample, shows=True)


def _sample(arguments: argparse.Namespace) -> int:
    from checkfree.config.load import load
    from checkfree.core.errors import at_least
    from checkfree.failures import sample

    config = load(arguments.config, arguments.words, arguments.allow)
    ticks = config.iterations if arguments.ticks is None else arguments.ticks
    at_least("--ticks", ticks, 1)
    size = {"stages": config.stages, "replicas": config.replicas}
    trace = sample(config.failures, seed=config.seed, ticks=ticks, **size)
    return _tell(trace, arguments.to, config.stages, ticks)


def _import_command(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Lay a public trace of spot instances over a pipeline: rows milliseconds,add|remove,node "
        "or a step function time,available. failures.seconds_per_iteration, seats_per_node, "
        "stages and first say how."
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the rows, as CSV")
    takes_config(parser, required=True)
    parser.add_argument("--to", metavar="FILE", type=Path, help="default: standard output")
    parser.add_argument("--unit", default="seconds", help="of a step function's time (seconds)")
    parser.set_defaults(run=_import)


def _import(arguments: argparse.Namespace) -> int:
    from checkfree.config.load import load
    from checkfree.core.errors import at_least
    from checkfree.failures import Pipeline, import_spot, target_stages

    config = load(arguments.config, arguments.words, arguments.allow)
    failures = config.failures
    at_least("failures.seats_per_node", failures.seats_per_node, 1)
    if not 0 < failures.seconds_per_iteration < math.inf:
        raise BadInput(
            f"failures.seconds_per_iteration is {failures.seconds_per_iteration}, expected a "
            "number above 0: correct it"
        )
    pipeline = Pipeline(
        stages=target_stages(failures.stages, config.stages),
        replicas=config.replicas,
        seats_per_node=failures.seats_per_node,
        seconds_per_iteration=failures.seconds_per_iteration,
        seed=config.seed if failures.seed is None else failures.seed,
        first=failures.first,
    )
    trace = import_spot(arguments.file, pipeline, arguments.unit)
    ticks = max([config.iterations, *(failure.tick + 1 for failure in trace)])
    return _tell(trace, arguments.to, config.stages, ticks)


def _tell(trace: Trace, to: Path | None, stages: int, ticks: int) -> int:
    """Write the trace to a file and draw it, or print it."""
    from checkfree.failures import picture, render_trace, summary, write_trace

    if to is None:
        print(render_trace(trace), end="")
        return DONE
    write_trace(trace, to)
    print(summary(trace))
    print(picture(trace, stages=stages, ticks=ticks, width=_width()))
    return DONE


def _show_command(parser: argparse.ArgumentParser) -> None:
    parser.description = "Draw a trace file: stages down, ticks across."
    parser.add_argument("file", metavar="FILE", help="a trace, as failures sample writes it")
    parser.set_defaults(run=_show, shows=True)


def _show(arguments: argparse.Namespace) -> int:
    from checkfree.failures import picture, read_trace, summary

    trace = read_trace(arguments.file, None, None)
    print(summary(trace))
    if trace:
        stages = max(failure.stage for failure in trace)
        ticks = 1 + max(failure.tick for failure in trace)
        print(picture(trace, stages=stages, ticks=ticks, width=_width()))
    return DONE


def _width() -> int:
    return Console().width

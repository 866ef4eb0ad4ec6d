"""``checkfree compare``."""

from __future__ import annotations

import argparse
import shlex
import sys
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console

from checkfree.cli.arguments import DONE, FAILED, INTERRUPTED, Commands, takes_config
from checkfree.cli.report import show_report
from checkfree.core.errors import BadInput

if TYPE_CHECKING:
    from checkfree.study.options import Options

EXAMPLE = "--strategies checkfree,'checkpoint(interval=25)' --rates 5,10,16 --seeds 5"


def add(commands: Commands) -> None:
    """Register the command."""
    parser = commands.add_parser("compare", help="train with many strategies, and report")
    parser.description = (
        "Train a configuration with several recovery strategies, from the same weights, on the "
        "same data and through the same failures, and report. The same command goes on where a "
        f"stopped one stood. As in: checkfree compare demo {EXAMPLE}. All options may also stand "
        "in the file, under compare:."
    )
    takes_config(parser, required=True)
    for name, metavar, told in _OPTIONS:
        parser.add_argument(f"--{name}", metavar=metavar, help=told)
    parser.add_argument(
        "--train-redundant",
        action="store_true",
        default=None,
        help="train exact strategies for every seed, though their losses are no_failure's",
    )
    parser.set_defaults(run=_compare)


_OPTIONS = (
    ("strategies", "A,B,…", "names, or variants such as 'checkpoint(interval=25)'"),
    ("rates", "R,…", "failures per stage and hour of the simulated clock, in percent"),
    ("seeds", "N", "runs of each, from the configuration's seed up (default: 1)"),
    ("out", "DIR", "where the runs and the report go (default: runs/compare-NAME)"),
    ("results", "DIR", "keep compact records here too; what stands there is not trained again"),
    ("workers", "N", "runs at a time (default: as many as cores, or devices)"),
    ("devices", "D,…", "one for each run in turn, as in cuda:0,cuda:1"),
    ("target", "LOSS", "validation loss that the report counts the time to"),
    ("title", "TEXT", "of the report"),
)

_NUMBERS = ("seeds", "workers", "target")


def _compare(arguments: argparse.Namespace) -> int:
    from checkfree.cli.compare_display import CompareDisplay
    from checkfree.config.load import open_source, placed
    from checkfree.plugins import packages
    from checkfree.study.compare import ComparisonRequest, train_missing
    from checkfree.study.options import make_options

    source = open_source(arguments.config)
    given = {name: _value(name, getattr(arguments, name)) for name, _, _ in _OPTIONS}
    given["train_redundant"] = arguments.train_redundant
    options = make_options(source.compare, given)
    options = replace(options, out=placed(options.out, source.name))
    command = _command(arguments, options)
    allow = {*arguments.allow, *packages((*arguments.words, arguments.strategies or ""))}
    try:
        request = ComparisonRequest(source, arguments.words, options, command, allow)
        with CompareDisplay(Console(stderr=True, highlight=False)) as display:
            crashed = train_missing(request, display)
        for run, why in crashed.items():
            print(f"checkfree: {run} has no result: {why}", file=sys.stderr)
        with suppress(BadInput) if crashed else nullcontext():  # perhaps nothing is finished
            show_report([request.out], request.out, allow=allow)
    except KeyboardInterrupt:
        print(f"checkfree: interrupted; go on: {command}", file=sys.stderr)
        return INTERRUPTED
    return FAILED if crashed else DONE


def _value(name: str, text: str | None) -> object:
    """A number where one is wanted and the text is one; else the text, which is then refused."""
    if text is None or name not in _NUMBERS:
        return text
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _command(arguments: argparse.Namespace, options: Options) -> str:
    """The command line that asks for the same again, whatever the file says by then."""
    words = ["checkfree", "compare", arguments.config, "--strategies", ",".join(options.strategies)]
    if options.rates:
        words += ["--rates", ",".join(f"{rate:g}" for rate in options.rates)]
    words += ["--seeds", str(options.seeds)]
    for name in ("out", "results", "workers", "target", "title"):
        value = getattr(options, name)
        if value is not None:
            words += [f"--{name}", str(value)]
    if options.devices:
        words += ["--devices", ",".join(options.devices)]
    if options.train_redundant:
        words.append("--train-redundant")
    for package in arguments.allow:
        words += ["--allow", package]
    return shlex.join([*words, *arguments.words])

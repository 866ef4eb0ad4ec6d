"""``checkfree train``."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from rich.console import Console

from checkfree.cli.arguments import DONE, FAILED, INTERRUPTED, Commands, takes_config
from checkfree.core.errors import BadInput, RunFailed, with_command


def add(commands: Commands) -> None:
    """Register the command."""
    parser = commands.add_parser("train", help="train through failures")
    parser.description = "Train as configured; --resume goes on with a run that was stopped."
    takes_config(parser, required=False)
    parser.add_argument("--resume", metavar="RUN", type=Path, help="the folder of a stopped run")
    parser.add_argument("--quiet", action="store_true", help="print the result only")
    parser.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> int:
    from checkfree.config.load import load
    from checkfree.runtime import folder as folders

    if arguments.resume is not None:
        if arguments.config is not None:
            raise BadInput("--resume RUN takes no other argument: the run knows its configuration")
        path = folders.existing(arguments.resume)
        if folders.finished(path):
            print(f"{path} is done: nothing to resume")
            return DONE
        return _go(arguments, path, load(path / folders.CONFIG, allow=arguments.allow), fresh=False)
    if arguments.config is None:
        raise BadInput("give a CONFIG, as in: checkfree train configs/demo.yaml; or --resume RUN")
    config = load(arguments.config, arguments.words, arguments.allow)
    return _go(arguments, Path(config.out), config, fresh=True)


def _go(arguments: argparse.Namespace, path: Path, config: object, *, fresh: bool) -> int:
    from checkfree.cli.display import Display
    from checkfree.config.parts import named
    from checkfree.core.config import Config
    from checkfree.session.train import resume, train

    assert isinstance(config, Config)
    console = Console(stderr=True, highlight=False)
    words = ["checkfree", "train", "--resume", str(path)]
    for package in sorted(named(config)):
        words += ["--allow", package]
    again = shlex.join(words)
    try:
        with Display(config, console, quiet=arguments.quiet) as display:
            run = (
                train(config, listeners=[display])
                if fresh
                else resume(path, listeners=[display], allow=arguments.allow)
            )
    except KeyboardInterrupt:
        print(f"checkfree: interrupted; go on: {again}", file=sys.stderr)
        return INTERRUPTED
    except RunFailed as error:
        raise RunFailed(with_command(str(error), again)) from None
    if run.status != "done":
        print(f"checkfree: the run ended: {run.reason}", file=sys.stderr)
        return FAILED
    last = f"; last loss {run.losses[-1]:.4f}" if run.losses else ""
    print(f"{run.config.iterations} iterations in {run.folder}{last}")
    return DONE

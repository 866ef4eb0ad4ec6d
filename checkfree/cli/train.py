"""``checkfree train``."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from rich.console import Console

from checkfree.cli.arguments import (
    DONE,
    FAILED,
    INTERRUPTED,
    Commands,
    how_to_go_on,
    takes_config,
    takes_resume,
    words_of_resume,
)
from checkfree.core.errors import BadInput, RunFailed, with_command


def add(commands: Commands) -> None:
    """Register the command."""
    parser = commands.add_parser("train", help="train through failures")
    parser.description = "Train as configured; --resume goes on with a run that was stopped."
    takes_config(parser, required=False)
    takes_resume(parser)
    parser.add_argument("--quiet", action="store_true", help="print the result only")
    parser.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> int:
    from checkfree.config.load import load, load_saved
    from checkfree.config.places import moved
    from checkfree.runtime import folder as folders

    if arguments.resume is not None:
        words = words_of_resume(arguments)
        path = folders.existing(arguments.resume)
        if folders.finished(path):
            print(f"{path} is done: nothing to resume")
            return DONE
        config = moved(load_saved(path / folders.CONFIG, arguments.allow), words)
        return _go(arguments, path, config, words)
    if arguments.config is None:
        raise BadInput("give a CONFIG, as in: checkfree train configs/demo.yaml; or --resume RUN")
    config = load(arguments.config, arguments.words, arguments.allow)
    return _go(arguments, Path(config.out), config)


def _go(
    arguments: argparse.Namespace, path: Path, config: object, going_on: list[str] | None = None
) -> int:
    """Begin the run, or go on with it by the words ``going_on``."""
    from checkfree.cli.display import Display
    from checkfree.config.parts import named
    from checkfree.core.config import Config
    from checkfree.runtime.folder import begun
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
                if going_on is None
                else resume(path, going_on, listeners=[display], allow=arguments.allow)
            )
    except KeyboardInterrupt:
        print(f"checkfree: interrupted{how_to_go_on(path, again)}", file=sys.stderr)
        return INTERRUPTED
    except RunFailed as error:
        raise RunFailed(with_command(str(error), again if begun(path) else "")) from None
    if run.status != "done":
        print(f"checkfree: the run ended: {run.reason}", file=sys.stderr)
        return FAILED
    last = f"; last loss {run.losses[-1]:.4f}" if run.losses else ""
    print(f"{run.config.iterations} iterations in {run.folder}{last}")
    return DONE

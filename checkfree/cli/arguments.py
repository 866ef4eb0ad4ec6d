"""What commands have in common: exit codes, and how a configuration is given."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from checkfree.cli.interrupts import EXIT_CODE
from checkfree.core.errors import BadInput

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Commands = object

DONE, FAILED, BAD_INPUT, AGAIN, INTERRUPTED = 0, 1, 2, 75, EXIT_CODE
"""The table of docs/reference/commands.md. AGAIN is EX_TEMPFAIL of sysexits.h: start me again."""


def takes_config(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """A configuration, and words over it: every command that reads one takes both."""
    parser.add_argument(
        "config",
        nargs=None if required else "?",
        metavar="CONFIG",
        help="a YAML file, or the name of one that ships (demo)",
    )
    parser.add_argument("words", nargs="*", metavar="key=value", help="as in iterations=100")
    takes_allow(parser)


def takes_state(parser: argparse.ArgumentParser) -> None:
    """Which state of a run: of an iteration, or an average by its name."""
    parser.add_argument(
        "--at",
        metavar="ITERATION|NAME",
        type=lambda word: int(word) if re.fullmatch(r"\d{1,12}", word) else word,
        help="which state of the run: after so many iterations, of which a snapshot or checkpoint "
        "has to stand there, or an average that `checkfree merge` made (default: the newest)",
    )


def takes_resume(parser: argparse.ArgumentParser) -> None:
    """A run to go on with, instead of a configuration."""
    parser.add_argument(
        "--resume",
        metavar="RUN",
        type=Path,
        help="the folder of a stopped run; of key=value it takes data.path, data.cache, "
        "data.tokenizer, recovery.log_path, stash, devices and threads, where they are others now",
    )


def words_of_resume(arguments: argparse.Namespace) -> list[str]:
    """The ``key=value`` words beside ``--resume RUN``. Raises BadInput for a configuration."""
    given = [arguments.config, *arguments.words]
    if given[0] is not None and "=" not in given[0]:
        raise BadInput(
            f"--resume RUN takes no configuration ({given[0]}): the run knows its own, and takes "
            "key=value only where its data or devices are others now, as in data.path=/mnt/texts"
        )
    return [word for word in given if word is not None]


def how_to_go_on(path: Path, again: str) -> str:
    """Behind "interrupted": how, if the run has begun."""
    from checkfree.runtime.folder import begun

    return f"; go on: {again}" if begun(path) else ""


def takes_allow(parser: argparse.ArgumentParser) -> None:
    """Whose code a configuration, or a run, may name: what this command line itself names needs no
    leave."""
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a strategy of your own, module:Class, may be of this package",
    )

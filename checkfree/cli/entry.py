"""Run one command of the command line; what went wrong is one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from checkfree.cli import (
    branch,
    compare,
    doctor,
    evaluate,
    export,
    failures,
    generate,
    merge,
    plan,
    profile,
    report,
    schedule,
    simulate,
    swarm,
    train,
    verify,
)
from checkfree.cli.arguments import BAD_INPUT, DONE, FAILED
from checkfree.cli.streams import is_lost
from checkfree.core.errors import BadInput, RunFailed

COMMANDS = (
    *(train, compare, report, verify, branch, merge, simulate, plan, profile, schedule),
    *(export, generate, evaluate, failures, swarm, doctor),
)
"""Modules with ``add(commands)``, in the order in which the help lists them."""

RENAMED = {"replay": "verify"}
"""What a command was called before: ``replay`` is going to be a recovery strategy."""


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Bad input is one line, never a traceback."""
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in RENAMED:
        now = " ".join(["checkfree", RENAMED[words[0]], *words[1:]])
        print(f"checkfree: {words[0]} is called {RENAMED[words[0]]} now: {now}", file=sys.stderr)
        return BAD_INPUT
    arguments = parse(argv)
    try:
        code = int(arguments.run(arguments))
    except BadInput as error:
        print(f"checkfree: {error}", file=sys.stderr)
        return BAD_INPUT
    except RunFailed as error:
        print(f"checkfree: {error}", file=sys.stderr)
        return FAILED
    except (MemoryError, RuntimeError) as error:
        # Of Python, of a CUDA device, or of torch on the CPU, which has no class for it.
        of_torch = getattr(sys.modules.get("torch"), "OutOfMemoryError", MemoryError)
        if not (isinstance(error, (MemoryError, of_torch)) or "DefaultCPUAllocator" in str(error)):
            raise
        reason = str(error).splitlines()[0] if str(error) else "this machine has too little"
        print(f"checkfree: out of memory: {reason}; lower batch or model sizes", file=sys.stderr)
        return FAILED
    only_shows = getattr(arguments, "shows", False)  # and leaves nothing else behind
    return FAILED if code == DONE and only_shows and is_lost(sys.stdout) else code


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """key=value words may stand anywhere, also behind an option."""
    parser = make_parser()
    arguments, rest = parser.parse_known_args(argv)
    strange = [word for word in rest if word.startswith("-") or "=" not in word]
    if strange or (rest and not hasattr(arguments, "words")):
        parser.error(f"unrecognized arguments: {' '.join(strange or rest)}")
    if rest:
        arguments.words = [*arguments.words, *rest]
    return arguments


def make_parser() -> argparse.ArgumentParser:
    """Of all commands."""
    parser = argparse.ArgumentParser(
        prog="checkfree",
        description="Pipeline-parallel training that survives the loss of whole stages.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser

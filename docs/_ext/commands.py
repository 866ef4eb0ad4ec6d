"""The commands of the command line, from the parsers that read it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from _ext.generated import add_directive
from checkfree.cli.entry import make_parser


@dataclass(frozen=True)
class Argument:
    """One argument or option: how it is written, and what it does."""

    written: str
    text: str


@dataclass(frozen=True)
class Command:
    """One command; ``depth`` is 1 for ``checkfree train`` and 2 for ``checkfree swarm up``. One
    that only leads to others has no usage."""

    name: str
    depth: int
    text: str
    usage: str
    arguments: tuple[Argument, ...]


def commands() -> Iterator[Command]:
    """All commands, each followed by those under it; hidden ones and their options left out."""
    yield from _below(make_parser(), 1)


def _below(parser: argparse.ArgumentParser, depth: int) -> Iterator[Command]:
    for inner in _subparsers(parser):
        told = {choice.dest: choice.help or "" for choice in inner._choices_actions}
        for name, command in inner.choices.items():
            if name in told:
                yield _command(command, depth, told[name])
                yield from _below(command, depth + 1)


def _subparsers(
    parser: argparse.ArgumentParser,
) -> list[argparse._SubParsersAction[argparse.ArgumentParser]]:
    return [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]


def _command(parser: argparse.ArgumentParser, depth: int, told: str) -> Command:
    parser.formatter_class = partial(argparse.HelpFormatter, width=88)  # whatever the terminal
    formatter = parser._get_formatter()
    arguments = [
        Argument(_written(action, formatter), formatter._expand_help(action) if action.help else "")
        for action in parser._actions
        if not isinstance(action, (argparse._HelpAction, argparse._SubParsersAction))
        and action.help != argparse.SUPPRESS
    ]
    usage = "" if _subparsers(parser) else parser.format_usage().removeprefix("usage: ")
    usage = re.sub(r"^ {7}", "", usage, flags=re.MULTILINE).strip()
    text = parser.description or f"{told[:1].upper()}{told[1:]}."
    return Command(parser.prog, depth, text, usage, tuple(arguments))


def _written(action: argparse.Action, formatter: argparse.HelpFormatter) -> str:
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest
    if not action.option_strings:
        return metavar
    value = "" if action.nargs == 0 else f" {metavar}"
    return ", ".join(f"{name}{value}" for name in action.option_strings)


def render() -> str:
    """All of them as MyST text."""
    parts = []
    for command in commands():
        parts.append(f"{'#' * (1 + command.depth)} {command.name}\n\n{_escaped(command.text)}\n")
        if command.usage:
            parts.append(f"```text\n{command.usage}\n```\n\n```{{program}} {command.name}\n```\n")
        for argument in command.arguments:
            parts.append(f"```{{option}} {argument.written}\n\n{_escaped(argument.text)}\n```\n")
    return "\n".join(parts)


def _escaped(text: str) -> str:
    """Plain text as MyST text that shows the same."""
    return re.sub(r"([\\`*_\[\]<>#{}$|])", r"\\\1", text)


def setup(app: Any) -> dict[str, Any]:
    """Register ``{command-list}``."""
    return add_directive(app, "command-list", render)

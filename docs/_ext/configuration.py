"""The keys of a configuration, from the dataclasses that define them.

A field's text is the string literal that stands after it: Python itself drops those, so they are
read off the source.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from _ext.generated import add_directive
from checkfree.config.load import COMPARE
from checkfree.core.config import Config
from checkfree.study.options import Options


@dataclass(frozen=True)
class Key:
    """One key, named as on the command line; ``default`` is written as in a YAML file."""

    name: str
    type: str
    default: str
    text: str


@dataclass(frozen=True)
class Section:
    """Keys with a common prefix. The run's own have none: their section is called ""."""

    name: str
    text: str
    keys: tuple[Key, ...]


def sections() -> Iterator[Section]:
    """All sections, in the order of the dataclasses' fields; that of ``compare`` comes last."""
    yield from _sections(Config, "", inspect.getdoc(Config) or "")
    yield from _sections(Options, COMPARE, inspect.getdoc(Options) or "")


def _sections(of: type[Any], name: str, text: str) -> Iterator[Section]:
    hints, texts = typing.get_type_hints(of), field_texts(of)
    keys, inner = [], []
    for field in dataclasses.fields(of):
        if field.metadata.get("internal"):
            continue
        path, told = f"{name}.{field.name}" if name else field.name, texts.get(field.name, "")
        if dataclasses.is_dataclass(hints[field.name]):
            section = hints[field.name]
            both = (inspect.getdoc(section) or "", told)
            inner.append((section, path, "\n\n".join(filter(None, both))))
        else:
            keys.append(Key(path, kind(hints[field.name]), default_of(field), told))
    yield Section(name, text, tuple(keys))
    for section in inner:
        yield from _sections(*section)


def field_texts(of: type[Any]) -> dict[str, str]:
    """The string literal after each field of a class, its bases' included."""
    found: dict[str, str] = {}
    for base in reversed(of.__mro__[:-1]):
        (body,) = ast.parse(inspect.getsource(base)).body
        assert isinstance(body, ast.ClassDef)
        found |= texts_after(body.body)
    return found


def texts_after(statements: Sequence[ast.stmt]) -> dict[str, str]:
    """The string literal after each assignment to a name."""
    found = {}
    for assigned, after in pairwise(statements):
        match assigned, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = inspect.cleandoc(text)
    return found


KINDS = {
    bool: "true or false",
    int: "integer",
    float: "number",
    str: "text",
    type(None): "null",
    Any: "one of several kinds",
}


def kind(hint: Any) -> str:
    """A type as somebody who writes YAML calls it. Raises KeyError for one that has no name."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(kind(part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        first, *rest = typing.get_args(hint)
        return f"list of {kind(first)}s" if rest == [...] else f"list of {1 + len(rest)} numbers"
    return KINDS[hint]


def default_of(field: dataclasses.Field[Any]) -> str:
    """A default as a YAML file has it."""
    value = field.default_factory() if callable(field.default_factory) else field.default
    return value if isinstance(value, str) else json.dumps(value)


def render() -> str:
    """All of them as MyST text."""
    parts = []
    for section in sections():
        parts.append(f"## {section.name or 'The run'}\n\n{section.text}\n")
        for key in section.keys:
            options = f":type: {key.type}\n:default: `{key.default}`"
            parts.append(f"```{{confval}} {key.name}\n{options}\n\n{key.text}\n```\n")
    return "\n".join(parts)


def setup(app: Any) -> dict[str, Any]:
    """Register ``{configuration-keys}``."""
    return add_directive(app, "configuration-keys", render)

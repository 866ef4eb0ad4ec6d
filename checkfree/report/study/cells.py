"""A table of the page as plain data; ``templates/parts.html`` makes HTML of it, and escapes all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from checkfree.report.study.style import Style

NOTHING = "–"


@dataclass(frozen=True)
class Head:
    """The first column's cell: a name, with the ``style`` of a strategy, and smaller ``below`` it
    what to know about it. What is empty is left out."""

    label: str
    below: tuple[str, ...] = ()
    style: Style | None = None


@dataclass(frozen=True)
class TableCell:
    """A value, and smaller ``below`` it what to know about it. ``bad``: it tells of something that
    went wrong; ``code``: as it is typed; ``text``: words, which stand to the left."""

    kind: ClassVar[str] = "cell"
    main: str
    below: tuple[str, ...] = ()
    bad: bool = False
    code: bool = False
    text: bool = False


@dataclass(frozen=True)
class CellLines:
    """A cell of several lines of text, each with a note behind it, or ""."""

    kind: ClassVar[str] = "lines"
    lines: tuple[tuple[str, str], ...]
    below: tuple[str, ...] = ()
    text: bool = True


@dataclass(frozen=True)
class TableRow:
    """Of one strategy, run or fact."""

    kind: ClassVar[str] = "row"
    head: Head
    cells: tuple[TableCell | CellLines, ...]


@dataclass(frozen=True)
class Divider:
    """Names the rows below it."""

    kind: ClassVar[str] = "divider"
    text: str


@dataclass(frozen=True)
class Endings:
    """Below the row of a strategy some of whose runs did not come through: who, where, why."""

    kind: ClassVar[str] = "endings"
    lines: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Table:
    """``columns`` are their titles, ``texts`` those of them that hold words; ``name`` is for
    people who can't see it."""

    columns: tuple[str, ...]
    rows: tuple[TableRow | Divider | Endings, ...]
    name: str
    texts: frozenset[str] = frozenset()

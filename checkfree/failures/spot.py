"""Public traces of spot instances, as failures of a given pipeline.

Two kinds are read, told apart by their columns; time 0 is the first row's::

    0,add,i-0a7          milliseconds, what happened, a node's name
    53000,remove,i-0a7

    0,16                 time, how many nodes there are: a step function
    310,14               time: a number of seconds (or minutes, hours), or 2021-07-26T18:42:00Z

A first line of titles is skipped; one that begins with ``seconds``, ``hours``, … says the unit.
The seats of ``failures.stages`` are those that can be lost; everything else of ``failures`` but
its numbers of seats and seconds is left aside. The training side always has a replacement, so a
rise brings none, and a seat that no node has taken again is not lost a second time.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType

from checkfree.core.errors import BadInput
from checkfree.core.ops import Address
from checkfree.core.units import derive
from checkfree.failures.samplers import pack
from checkfree.failures.trace import Failure, Trace, make_trace

UNITS: Mapping[str, float] = MappingProxyType(
    {"milliseconds": 0.001, "seconds": 1.0, "minutes": 60.0, "hours": 3600.0}
)
"""Seconds of what a step function's time may be counted in."""

_EXAMPLES = "0,add,node-1 (milliseconds, add or remove, node) or 0,16 (time, nodes available)"


@dataclass(frozen=True)
class Pipeline:
    """What a trace is laid over."""

    stages: tuple[int, ...]
    """That may be lost, ascending."""
    replicas: int
    seats_per_node: int
    seconds_per_iteration: float
    seed: int
    first: int = 0
    """No failure before this tick."""


@dataclass(frozen=True)
class _Row:
    """A line of the file, for what is said of it."""

    path: Path
    line: int
    cells: tuple[str, ...]

    def wrong(self, what: str, expected: str, mend: str) -> BadInput:
        return BadInput(f"{self.path}:{self.line}: {what}, expected {expected}: {mend}")


def import_spot(path: str | Path, pipeline: Pipeline, unit: str = "seconds") -> Trace:
    """The failures that a file of either kind means to a pipeline.

    Deterministic: the same file, pipeline and unit give the same trace. Raises BadInput, which
    names the line.
    """
    rows, titles = _rows(Path(path))
    if len(rows[0].cells) == 3:
        failures = _of_nodes(rows, pipeline)
    else:
        failures = _of_steps(rows, pipeline, titles[0] if titles[:1] in _TITLED else unit)
    return make_trace(failure for failure in failures if failure.tick >= pipeline.first)


_TITLED = [(unit,) for unit in UNITS]


# --- rows that add and remove nodes --------------------------------------------------------------


def _of_nodes(rows: Sequence[_Row], pipeline: Pipeline) -> Iterator[Failure]:
    """Nodes take the seats in address order, ``seats_per_node`` each: one that joins sits down at
    the first free place, or waits for one; whoever waits longest takes the place of one that
    leaves. Removing a node that waits loses nothing."""
    groups = pack(pipeline.stages, pipeline.replicas, pipeline.seats_per_node)
    places: list[str | None] = [None] * len(groups)
    waiting: list[str] = []
    for row, seconds in _timed(rows, 0.001):
        event, node = row.cells[1].lower(), row.cells[2]
        present = node in waiting or node in places
        _check_event(row, event, node, present)
        if event == "add":
            waiting.append(node)
        elif node in waiting:
            waiting.remove(node)
        else:
            place = places.index(node)
            places[place] = None
            yield from _lost(groups[place], seconds, pipeline)
        while waiting and None in places:
            places[places.index(None)] = waiting.pop(0)


def _check_event(row: _Row, event: str, node: str, present: bool) -> None:
    if event not in ("add", "remove"):
        raise row.wrong(f"got {row.cells[1]!r}", "add or remove", "correct the second column")
    if not node:
        raise row.wrong("no node is named", "a name in the third column", "fill it in")
    if event == "add" and present:
        raise row.wrong(f"{node} is added twice", "it to be removed before", "delete one of both")
    if event == "remove" and not present:
        raise row.wrong(f"{node} is removed", "it to be added before", "add it first, at time 0")


# --- how many there are --------------------------------------------------------------------------


def _of_steps(rows: Sequence[_Row], pipeline: Pipeline, unit: str) -> Iterator[Failure]:
    """A fall by k loses k seats, at most all, drawn evenly: from (seed, "spot", number of the
    row), so that what one fall hits does not depend on the others."""
    seats = [seat for (seat,) in pack(pipeline.stages, pipeline.replicas, 1)]
    before = _available(rows[0])
    if unit not in UNITS:
        raise BadInput(f"--unit is {unit!r}, expected one of {', '.join(UNITS)}: choose one")
    for step, (row, seconds) in enumerate(_timed(rows, UNITS[unit])):
        now = _available(row)
        lost = _drawn(seats, before - now, derive(pipeline.seed, "spot", step))
        yield from _lost(lost, seconds, pipeline)
        before = now


def _drawn(seats: Sequence[Address], count: int, seed: int) -> list[Address]:
    """``random.Random.random`` only: Python promises its numbers across versions."""
    draw, left = random.Random(seed).random, list(seats)
    return [left.pop(int(draw() * len(left))) for _ in range(min(count, len(seats)))]


def _available(row: _Row) -> int:
    if not (row.cells[1].isascii() and row.cells[1].isdigit()):
        raise row.wrong(
            f"got {row.cells[1]!r} nodes", "a whole number from 0 up", "correct the second column"
        )
    return int(row.cells[1])


# --- both ----------------------------------------------------------------------------------------


def _lost(seats: Iterable[Address], seconds: float, pipeline: Pipeline) -> Iterator[Failure]:
    tick = int(seconds // pipeline.seconds_per_iteration)
    return (Failure(tick, seat.stage, seat.replica) for seat in seats)


def _timed(rows: Sequence[_Row], scale: float) -> Iterator[tuple[_Row, float]]:
    """Each row with its seconds since the first."""
    start = before = _seconds(rows[0], scale)
    for row in rows:
        now = _seconds(row, scale)
        if now < before:
            raise row.wrong(
                f"time {row.cells[0]} is before the line above", "rows in order of time", "sort it"
            )
        before = now
        yield row, now - start


def _seconds(row: _Row, scale: float) -> float:
    text = row.cells[0]
    try:
        found = float(text) * scale
    except ValueError:
        found = _stamp(text)
    if not 0 <= found < 1e12:
        raise row.wrong(f"time {text!r}", "a number or 2021-07-26T18:42:00Z", "correct it")
    return found


def _stamp(text: str) -> float:
    """Seconds of a date and time, taken as UTC if it names no zone; NaN: it is none."""
    try:
        moment = datetime.fromisoformat(text.removesuffix("Z"))
        return moment.replace(tzinfo=moment.tzinfo or timezone.utc).timestamp()
    except (ValueError, OverflowError):
        return float("nan")


def _rows(path: Path) -> tuple[list[_Row], tuple[str, ...]]:
    """The rows that say something, at least one, all as wide as the first; and the titles."""
    found = [row for row in _lines(path) if any(row.cells) and not row.cells[0].startswith("#")]
    titles: tuple[str, ...] = ()
    if found and found[0].cells[0][:1].isalpha():
        titles = tuple(cell.lower() for cell in found.pop(0).cells[:1])
    if not found:
        raise BadInput(f"{path} has no rows, expected lines such as {_EXAMPLES}: check the file")
    width = len(found[0].cells)
    for row in found:
        if width not in (2, 3) or len(row.cells) != width:
            wanted = f"{width} as in the lines above" if width in (2, 3) else _EXAMPLES
            raise row.wrong(f"{len(row.cells)} columns", wanted, "correct the line")
    return found, titles


def _lines(path: Path) -> Iterator[_Row]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        reader = csv.reader(text.splitlines())
        for cells in reader:
            yield _Row(path, reader.line_num, tuple(cell.strip() for cell in cells))
    except OSError as error:
        raise BadInput(f"cannot read {path} ({error.strerror}): check the path") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} is no text in rows ({error}): expected {_EXAMPLES}") from None

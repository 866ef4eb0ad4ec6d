"""Cells and made-up records for tests of comparisons: no run is trained for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from checkfree.config.load import ConfigSource, to_tree, to_yaml
from checkfree.core.records import (
    RECORDS,
    EndRecord,
    IterationRecord,
    Record,
    ValidationRecord,
    dumps,
)
from checkfree.runtime.folder import CONFIG
from checkfree.study.options import make_options
from checkfree.study.plan import Cell, base, plan

TREE = {
    "stages": 2,
    "iterations": 6,
    "model": {"blocks": 2, "width": 8, "heads": 2, "context": 8},
    "data": {"name": "text", "path": "text.txt"},
}

Lines = list[dict[str, Any]]


def cells_of(
    folder: Path, strategies: Sequence[str], words: Sequence[str] = (), **more: Any
) -> dict[str, Cell]:
    """By place."""
    options = make_options({}, {"strategies": list(strategies), **more})
    found = plan(base(ConfigSource("x", TREE, {}), words), options, folder)
    return {cell.place: cell for cell in found}


def loss_at(iteration: int, seed: int = 0) -> float:
    """Falls, with digits that a shorter print would lose."""
    return 5.0 + seed - iteration / 7


def records_of(cell: Cell, steps: int = 6, status: str = "done", reason: str = "") -> Lines:
    """Of a run of ``steps`` iterations; validated before each even one, and at the end."""
    made: list[Record] = []
    for iteration in range(steps + 1):
        loss = loss_at(iteration, cell.number)
        if iteration % 2 == 0:
            made.append(ValidationRecord(iteration, iteration, loss + 0.1, seconds=0.5))
        if iteration < steps:
            made.append(_step(iteration, loss))
    made.append(EndRecord(status, steps, steps, reason))
    return [config_record(cell), *(json.loads(dumps(record)) for record in made)]


def config_record(cell: Cell) -> dict[str, Any]:
    """The first line of a run."""
    first = {"versions": {"torch": "2"}, "data": {"hash": "a"}, "parameters": 9}
    config = json.loads(json.dumps(to_tree(cell.config)))
    return {"kind": "config", "config": config, **first}


def _step(iteration: int, loss: float) -> IterationRecord:
    return IterationRecord(
        iteration,
        iteration,
        epoch=0,
        loss=loss,
        gradient_norms={"1": 0.123456789},
        clip={},
        forwards=4,
        redundant_forwards=0,
        alive=3,
        tokens=64,
        lr=1e-3,
        seconds=0.1234567,
    )


def write_run(cell: Cell, records: Lines, config: bool = True) -> Path:
    """The run folder of a cell, with these records."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    (cell.folder / RECORDS).write_text("".join(json.dumps(r) + "\n" for r in records))
    if config:
        (cell.folder / CONFIG).write_text(to_yaml(cell.config))
    return cell.folder

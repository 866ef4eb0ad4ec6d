"""Trains the cells that are not done, in child processes, and keeps what they end with."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from checkfree.config.load import load_saved, to_yaml
from checkfree.config.parts import running
from checkfree.config.places import moves
from checkfree.core.errors import BadInput, cannot_write
from checkfree.runtime.files import write_whole
from checkfree.runtime.folder import CONFIG
from checkfree.study import reuse
from checkfree.study.folders import (
    CellStanding,
    Records,
    State,
    check_trained,
    checked_records,
    clear,
    crash_path,
    ended,
)
from checkfree.study.plan import Cell
from checkfree.study.pool import Ended, Pool
from checkfree.study.watcher import Watcher, describe

LOOK = 0.1
"""Seconds between two looks at the children."""

REFUSED = "checkfree: the run ended:"
"""How a run that its strategy could not save begins its last line; see ``checkfree.cli.train``."""


class Work:
    """``found``: how far each cell is, by place; kept up to date. ``reusable``: the cells that need
    no training once others are done. ``finished`` hears of each cell that gets a result."""

    def __init__(
        self,
        cells: Sequence[Cell],
        found: dict[str, CellStanding],
        reusable: Mapping[str, reuse.ReusedRun],
        finished: Callable[[Cell, Records], None],
    ):
        self._cells = {cell.place: cell for cell in cells}
        self._found, self._finished = found, finished
        rest = [cell for cell in cells if found[cell.place].state is not State.DONE]
        self._reusable = {
            cell.place: reusable[cell.place]
            for cell in rest
            if cell.place in reusable and found[cell.place].state is State.NEW
        }
        self._queue = [cell for cell in rest if cell.place not in self._reusable]
        self.iterations = sum(cell.config.iterations for cell in self._queue)
        """Yet to be trained."""
        self.crashed: dict[str, str] = {}
        """Run -> why it has no result."""

    def run(self, pool: Pool, watcher: Watcher) -> None:
        """Until every cell has a result or can have none."""
        self._reuse(watcher)
        while self._queue or pool.keys:
            while self._queue and pool.free:
                self._start(self._queue.pop(0), pool, watcher)
            for end in pool.ended():
                self._settle(self._cells[end.key], end, watcher)
                self._reuse(watcher)
            watcher.look()
            if pool.keys:
                time.sleep(LOOK)
        for run in self._reusable.values():
            self.crashed[str(run.cell)] = f"it needs {' and '.join(map(str, run.needs[:2]))}"

    def _start(self, cell: Cell, pool: Pool, watcher: Watcher) -> None:
        if self._found[cell.place].state is State.STOPPED:
            was = load_saved(cell.folder / CONFIG, running(cell.config))
            words = ["train", "--resume", str(cell.folder), *moves(cell.config, was), "--quiet"]
        else:
            clear(cell.folder)
            file = config_path(cell.folder)
            write_whole(file, to_yaml(cell.config).encode())
            words = ["train", str(file), "--quiet"]
        for package in sorted(running(cell.config)):  # as it was permitted here
            words += ["--allow", package]
        pool.start(cell.place, words)
        watcher.began(cell)

    def _settle(self, cell: Cell, end: Ended, watcher: Watcher) -> None:
        if not _came_to_an_end(cell, end):
            return self._crash(cell, end.last.removeprefix("checkfree: "), watcher)
        records = _result(cell)
        try:  # where memory has become short, auto begins without logs
            check_trained(cell, records)
        except BadInput as error:
            return self._crash(cell, str(error), watcher)
        self._result(cell, records, watcher)

    def _crash(self, cell: Cell, why: str, watcher: Watcher) -> None:
        self.crashed[str(cell)] = why
        watcher.ended(cell, f"crashed: {why}")

    def _result(self, cell: Cell, records: Records, watcher: Watcher) -> None:
        self._found[cell.place] = CellStanding(State.DONE, records)
        self._finished(cell, records)
        watcher.ended(cell, describe(records))

    def _reuse(self, watcher: Watcher) -> None:
        """Whatever can be had without training by now."""
        for place, run in list(self._reusable.items()):
            reference, proof, model = (self._found[cell.place].records for cell in run.needs)
            if not (reference and proof and model):
                continue
            del self._reusable[place]
            if reuse.has_whole_curve(reference):
                reuse.check_same_losses(run.proof, proof, model)
                self._result(run.cell, reuse.write_reused(run, reference), watcher)
            else:
                self._queue.append(run.cell)


def config_path(folder: Path) -> Path:
    """The file beside a run's folder that the run is started with."""
    return folder.with_name(folder.name + ".yaml")


def _came_to_an_end(cell: Cell, end: Ended) -> bool:
    """Else the run's process crashed, which is noted beside its folder."""
    refused = end.code == 1 and any(line.startswith(REFUSED) for line in end.lines)
    note = crash_path(cell.folder)
    try:
        config_path(cell.folder).unlink(missing_ok=True)
        if end.code == 0 or refused:
            note.unlink(missing_ok=True)
        else:
            note.write_text("\n".join([*end.lines, f"exit code {end.code}", ""]))
    except OSError as error:
        raise cannot_write(note, error) from error
    return end.code == 0 or refused


def _result(cell: Cell) -> Records:
    records = checked_records(cell.folder)
    if not ended(records):
        raise BadInput(f"{cell.folder}: its run left no end; remove it to train it anew")
    return records

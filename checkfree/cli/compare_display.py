"""What ``checkfree compare`` shows while it trains: bars on a terminal, else a line per run."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from checkfree.core.units import render_seconds
from checkfree.runtime.tail import Tail
from checkfree.study.plan import Cell
from checkfree.study.watcher import Watcher

REFRESH = 0.5
"""Seconds between two looks at the runs."""


class CompareDisplay(Watcher):
    """Use as a context."""

    def __init__(self, console: Console):
        self._console, self._live = console, console.is_terminal
        self._total = self._done = 0
        self._work, self._worked = 1, 0.0
        self._began = self._looked = time.monotonic()
        self._runs: dict[str, RunProgress] = {}
        self._tasks: dict[str, TaskID] = {}
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
            console=console,
            refresh_per_second=4,
            expand=True,
        )
        self._whole = self._bars.add_task("runs", told="")

    def __enter__(self) -> CompareDisplay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._bars.stop()

    def begin(self, total: int, done: int, iterations: int) -> None:
        self._total, self._done, self._work = total, done, max(1, iterations)
        self._began = time.monotonic()
        self._bars.update(self._whole, total=total, completed=done)
        if self._live:
            self._bars.start()

    def began(self, cell: Cell) -> None:
        self._runs[cell.place] = RunProgress(cell.folder)
        task = self._bars.add_task(str(cell), total=cell.config.iterations, told="")
        self._tasks[cell.place] = task

    def ended(self, cell: Cell, text: str) -> None:
        self._done += 1
        if cell.place in self._tasks:
            self._worked += cell.config.iterations
            self._bars.remove_task(self._tasks.pop(cell.place))
            del self._runs[cell.place]
        self.note(f"{self._done}/{self._total}  {cell}: {text}{self._left()}")
        self._bars.update(self._whole, completed=self._done, told=self._left())

    def note(self, line: str) -> None:
        """Above the bars, if there are any."""
        self._console.print(line, soft_wrap=True, markup=False, highlight=False)

    def look(self) -> None:
        """Reads how far the runs are, if the last look was a while ago."""
        if not self._live or time.monotonic() - self._looked < REFRESH:
            return
        self._looked = time.monotonic()
        for key, run in self._runs.items():
            run.update()
            loss = "" if run.loss is None else f"loss {run.loss:.3f}, "
            told = f"{loss}{run.failures} failures"
            self._bars.update(self._tasks[key], completed=run.iteration, told=told)
        self._bars.update(self._whole, told=self._left())

    def _left(self) -> str:
        """ "; 12 min 3 s left", once there is something to tell it from."""
        running = sum(run.iteration for run in self._runs.values())
        share = (self._worked + running) / self._work
        if not 0 < share < 1:
            return ""
        return f"; {render_seconds((time.monotonic() - self._began) * (1 / share - 1))} left"


class RunProgress:
    """How far a run is that a child trains in ``folder``, as of the last ``update()``."""

    def __init__(self, folder: Path):
        self._begin()
        self.update = Tail(folder, self._heard, restarted=self._begin)

    def _begin(self) -> None:
        self.iteration = 0
        """Steps committed so far."""
        self.loss: float | None = None
        self.failures = 0

    def _heard(self, record: dict[str, Any]) -> None:
        match record["kind"]:
            case "iteration":
                self.iteration, self.loss = record["iteration"] + 1, record["loss"]
            case "failure":
                self.failures += 1

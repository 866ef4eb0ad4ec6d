"""What a comparison shows while it trains: bars on a terminal, else a line per run."""

from __future__ import annotations

import time
from contextlib import suppress
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from checkfree.core.records import of_kind
from checkfree.core.units import render_seconds
from checkfree.study.folders import Records, ended
from checkfree.study.plan import Cell
from checkfree.study.tail import Tail

REFRESH = 0.5
"""Seconds between two looks at the runs."""


class Show:
    """Use as a context. ``total`` and ``done``: runs of the comparison, in all and already;
    ``work``: iterations yet to be trained."""

    def __init__(self, console: Console, total: int, done: int, work: int):
        self._console, self._total, self._done = console, total, done
        self._work, self._worked = max(1, work), 0.0
        self._began = self._looked = time.monotonic()
        self._tails: dict[str, Tail] = {}
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
        self._live = console.is_terminal
        self._whole = self._bars.add_task("runs", total=total, completed=done, told="")

    def __enter__(self) -> Show:
        if self._live:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            with suppress(OSError):
                self._bars.stop()

    def began(self, cell: Cell) -> None:
        """A run starts, or goes on."""
        self._tails[cell.place] = Tail(cell.folder)
        task = self._bars.add_task(str(cell), total=cell.config.iterations, told="")
        self._tasks[cell.place] = task

    def ended(self, cell: Cell, text: str) -> None:
        """A run has ended, as ``text`` says."""
        self._done += 1
        if cell.place in self._tasks:
            self._worked += cell.config.iterations
            self._bars.remove_task(self._tasks.pop(cell.place))
            del self._tails[cell.place]
        self.say(f"{self._done}/{self._total}  {cell}: {text}{self._left()}")
        self._bars.update(self._whole, completed=self._done, told=self._left())

    def say(self, line: str) -> None:
        """One line, above the bars if there are any."""
        with suppress(OSError):
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)

    def look(self) -> None:
        """Read how far the runs are, if the last look was a while ago."""
        if not self._live or time.monotonic() - self._looked < REFRESH:
            return
        self._looked = time.monotonic()
        for key, tail in self._tails.items():
            tail.update()
            loss = "" if tail.loss is None else f"loss {tail.loss:.3f}, "
            told = f"{loss}{tail.failures} failures"
            self._bars.update(self._tasks[key], completed=tail.iteration, told=told)
        self._bars.update(self._whole, told=self._left())

    def _left(self) -> str:
        """ "; 12 min 3 s left", once there is something to tell it from."""
        running = sum(tail.iteration for tail in self._tails.values())
        share = (self._worked + running) / self._work
        if not 0 < share < 1:
            return ""
        return f"; {render_seconds((time.monotonic() - self._began) * (1 / share - 1))} left"


def describe(records: Records) -> str:
    """One line on a finished run: how it ended, its last losses, what it suffered."""
    steps, failures = of_kind(records, "iteration"), of_kind(records, "failure")
    end = records[-1]
    reached = f"ended at {end['iteration']} ({end['reason']})" if ended(records) != "done" else ""
    told = reached or f"{end['iteration']} iterations"
    measured = [r["loss"] for r in of_kind(records, "validation") if not r["after_repair"]]
    if measured and measured[-1] is not None:
        told += f", validation {measured[-1]:.4f}"
    elif steps and steps[-1]["loss"] is not None:
        told += f", loss {steps[-1]['loss']:.4f}"
    return told + (f", {len(failures)} failures" if len(failures) != 1 else ", 1 failure")

"""What a long command shows of its pieces: bars on a terminal, a line each elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Bars:
    """Use as a context; shows nothing if ``quiet``. Standard output stays free."""

    def __init__(self, quiet: bool):
        self._console = Console(stderr=True, highlight=False, quiet=quiet)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def piece(self, label: str, iterations: int, what: str = "iterations") -> Callable[[], None]:
        """Begin a piece; call the result after each of its iterations, or ``what`` they are."""
        task = self._bars.add_task(label, total=iterations)
        if self._bars.disable:
            self._console.print(f"{label}: {iterations} {what}" if iterations else label)
        return lambda: self._bars.advance(task)

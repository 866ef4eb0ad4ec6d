"""Who hears how a comparison gets on."""

from __future__ import annotations

from checkfree.core.records import of_kind
from checkfree.study.folders import Records, ended
from checkfree.study.plan import Cell


class Watcher:
    """A silent one: whoever shows something overrides what it hears of."""

    def begin(self, total: int, done: int, iterations: int) -> None:
        """Training begins: of ``total`` runs so many are ``done``, and the others have
        ``iterations`` before them, together."""

    def note(self, line: str) -> None:
        """What a reader of the report must know."""

    def began(self, cell: Cell) -> None:
        """A run starts, or goes on."""

    def ended(self, cell: Cell, text: str) -> None:
        """A run has ended, as ``text`` says."""

    def look(self) -> None:
        """Some tenths of a second have passed."""


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

"""How much of a run's time went into training, from its records.

Goodput is what the iterations would have taken that were committed for the first time, each at the
median of those that nothing disturbed, over all seconds that passed. What it lacks to one went into
losses, what they broke off, repairs, training again after a rollback, validations and snapshots.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Mapping
from typing import Any

_TIMED = ("iteration", "validation", "failure", "plan", "recovery")
"""Kinds of records whose seconds add up to those that passed."""
_DISTURBS = ("failure", "plan", "recovery", "resume")
"""The iteration after one of these takes longer than others."""


class Goodput:
    """The goodput of a run whose records come one by one."""

    def __init__(self) -> None:
        self._undisturbed: list[float] = []
        """Seconds of iterations that came right after another, ascending."""
        self._calm = False
        self._reached = 0
        self._first_time = 0
        self._seconds = 0.0

    def add(self, kind: str, record: Mapping[str, Any]) -> None:
        """One more record of that kind, with its fields by name."""
        iteration, seconds = record.get("iteration"), record.get("seconds")
        if kind in _TIMED:
            self._seconds += seconds or 0.0
        if kind == "iteration" and seconds is not None and iteration is not None:
            if iteration >= self._reached:
                self._reached, self._first_time = iteration + 1, self._first_time + 1
            if self._calm:
                insort(self._undisturbed, seconds)
        self._calm = kind not in _DISTURBS and (self._calm or kind == "iteration")

    @property
    def share(self) -> float | None:
        """Between 0 and 1; None: no iteration tells yet what one takes."""
        if not self._undisturbed or not self._seconds:
            return None
        median = self._undisturbed[len(self._undisturbed) // 2]
        return min(1.0, self._first_time * median / self._seconds)


def goodput(records: Iterable[Mapping[str, Any]]) -> float | None:
    """The goodput of a run's records, in their order; None: see ``Goodput.share``."""
    found = Goodput()
    for record in records:
        found.add(record["kind"], record)
    return found.share

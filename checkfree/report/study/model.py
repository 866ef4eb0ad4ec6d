"""What a report is made from: runs with their records, and what they took on a fleet's clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from checkfree.core.cost import Priced

REFERENCE = "no_failure"


@dataclass(frozen=True)
class Entry:
    """One run of a comparison."""

    label: str
    """The strategy as it was asked for: ``checkpoint(interval=25)``."""
    rate: float | None
    """Failures per stage and hour in percent; None: the configuration's own failures, or none."""
    seed: int
    folder: str
    records: Sequence[Mapping[str, Any]]
    """As ``checkfree.core.records.read`` gives them."""
    priced: Priced | None = None
    reused: str = ""
    """Whose curve this is, if it was not trained because it is the same by construction."""


@dataclass(frozen=True)
class Study:
    """A comparison. Entries of one rate and seed share weights, data and failures."""

    title: str
    entries: Sequence[Entry]
    command: str = ""
    """What makes it again."""
    target: float | None = None
    """Validation loss to reach, in nats per token; None: the worst best of the reference."""
    notes: Sequence[str] = ()
    """What a reader must know, one line each: whose sizes are priced, what was not finished."""
    extra: Mapping[str, Any] = field(default_factory=dict)

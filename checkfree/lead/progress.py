"""What the lead knows of a run, and how far the run has come."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from checkfree.core.ops import Address, Route, Schedule
from checkfree.lead.trend import Trend
from checkfree.models.chunks import Chunks
from checkfree.pipeline.routes import in_order
from checkfree.recovery.shadow.ledger import Entry, entry_of


@dataclass(frozen=True)
class Terms:
    """What the lead has to know of a run beforehand."""

    iterations: int
    microbatches: int
    schedule: Callable[[tuple[Route, ...]], Schedule]
    routes: Callable[[Collection[Address], int], tuple[Route, ...]] = in_order
    """Through the seats that live, one for each of so many microbatches."""
    chunks: Chunks = Chunks.WHOLE
    """Of each body seat: how often these routes come to it."""
    clip: float | None = 1.0
    clip_over: str = "stage"
    validation_every: int = 0
    validation_microbatches: int = 1
    validate_after_repair: bool = False
    resume_every: int = 0
    average_every: int = 0
    max_ticks: int = 1_000_000
    tokens: int | None = None
    """Tokens per iteration, for the records."""
    blind: bool = False
    """The losses say nothing: this is a rehearsal."""
    background: bool = False
    """Snapshots of ``--resume`` travel while others train, and nobody waits for one."""
    initial: bool = False
    """The state that the run begins with is in the store, for seats that have it from nowhere
    else: it was another run's."""
    last_rung: bool = False
    """What the strategy refuses is taken back to the newest snapshot (semantics 7)."""


@dataclass(frozen=True)
class Progress:
    """How far a run has come: what a resumed lead starts from."""

    committed: int = 0
    """Iterations that the weights have seen; the next one's index."""
    tick: int = 0
    epoch: int = 0
    repairs: int = 0
    validation: float | None = None
    """The last validation loss, and the tick that it was measured at."""
    validated_at: int = -1
    checkpoints: tuple[int, ...] = ()
    """Versions that the store offers, ascending."""
    notes: int = 0
    """Records that the lead has sent to the log."""
    trend: Trend = ()
    """Of the loss of committed steps, see :mod:`checkfree.lead.trend`."""
    shadows: tuple[Entry, ...] = ()
    """In a snapshot: those that had arrived, see :mod:`checkfree.recovery.shadow.ledger`."""
    snapshots: tuple[tuple[int, int], ...] = ()
    """Tick and version of each snapshot of ``--resume`` that the run may go back to, ascending."""

    @property
    def diverged(self) -> bool:
        """A validation has found that the committed weights have no finite loss; None is what the
        records make of one."""
        found = math.nan if self.validation is None else self.validation
        return self.validated_at == self.tick and not math.isfinite(found)

    def to_json(self) -> dict[str, Any]:
        """Plain data that :meth:`from_json` makes the same of."""
        return {
            **vars(self),
            "checkpoints": list(self.checkpoints),
            "trend": list(self.trend),
            "shadows": list(map(list, self.shadows)),
            "snapshots": list(map(list, self.snapshots)),
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Progress:
        """Raises KeyError, TypeError or ValueError for anything else."""
        trend = tuple(map(float, tree.get("trend", ())))
        shadows = tuple(map(entry_of, tree.get("shadows", ())))
        snapshots = tuple((tick, version) for tick, version in tree.get("snapshots", ()))
        sequences = {"trend": trend, "shadows": shadows, "snapshots": snapshots}
        made = cls(**{**tree, "checkpoints": tuple(tree["checkpoints"]), **sequences})
        counts: tuple[int, ...] = (
            made.committed,
            made.tick,
            made.epoch,
            made.repairs,
            made.notes,
        )
        counts += tuple(n for snapshot in snapshots for n in snapshot)
        if not all(type(n) is int and n >= 0 for n in (*counts, *made.checkpoints)):
            raise ValueError(f"counts are whole numbers from 0, got {dict(tree)}")
        return made

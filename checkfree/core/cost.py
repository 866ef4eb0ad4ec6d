"""What a run took on a fleet's clock: plain data that ``simulate`` makes and ``report`` reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SECONDS = (
    "useful",
    "bubble",
    "transfer",
    "redundant",
    "checkpoint",
    "detection",
    "rebuild",
    "rollback",
    "replay",
)
"""Classes of time. ``useful``: forward, backward and step that were kept; ``bubble``: waiting for
another stage; ``transfer``: waiting for bytes; ``rollback``: all that was done and done again,
after a rollback or because a loss broke it off; ``replay``: while lost stages were replayed."""

LOSSES = ("detection", "rebuild", "rollback", "replay")
"""Classes of time that only pass because something was lost."""

BYTES = ("useful", "redundant", "checkpoint", "rebuild", "rollback", "replay", "validation")
"""Classes of bytes sent. Validation's take no time on the clock: it measures, it is no cost."""


@dataclass(frozen=True)
class Priced:
    """One run on one fleet. Times are mean seconds of a node, so they add up to ``total``."""

    fleet: str
    """Its name, and whose sizes were priced, as a reader should see it."""
    iterations: tuple[int, ...]
    """The iteration that each tick trained."""
    ends: tuple[float, ...]
    """Simulated seconds since the start at which each tick's step was committed."""
    seconds: Mapping[str, float]
    """By class, see ``SECONDS``."""
    bytes: Mapping[str, int]
    """By class, see ``BYTES``."""
    messages: Mapping[str, int]
    """Bytes by name of message, as a run's ledger counts them."""
    recoveries: tuple[float, ...] = ()
    """Seconds from each loss until training went on, detection and replacement included."""
    stored: Mapping[str, int] = field(default_factory=dict)
    """Most extra bytes held at once: ``peers`` (copies on other nodes), ``store``, and ``own``: of
    what seats keep of themselves, as logs and what the next shadow is a change of."""
    nodes: int = 0
    price: float | None = None
    """Of a node, per hour."""
    reason: str = ""
    """Why the run ended early; empty: it did not."""
    parameters: int = 0
    """Of the model whose sizes were priced; 0: it is not told."""

    @property
    def total(self) -> float:
        """Simulated seconds of the whole run."""
        return sum(self.seconds.values())

    @property
    def cost(self) -> float | None:
        """Of all nodes for the whole run, idle time included; None without a price."""
        return None if self.price is None else self.price * self.nodes * self.total / 3600

    @property
    def goodput(self) -> float:
        """Share of the time that was useful."""
        return self.seconds.get("useful", 0.0) / self.total if self.total else 0.0

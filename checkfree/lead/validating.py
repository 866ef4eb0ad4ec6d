"""When the committed weights are validated, and what is written down of it."""

from __future__ import annotations

from checkfree.lead.desk import Desk
from checkfree.lead.mending import Mending
from checkfree.record import ValidationRecord


class Validating:
    """Every so often, at the end, and right after a repair that may have cost something."""

    def __init__(self, desk: Desk, mending: Mending):
        self._desk, self._mending = desk, mending

    def due(self) -> bool:
        """One is next."""
        p, terms = self._desk.progress, self._desk.terms
        if self._mending.unread is not None:
            return True
        every = terms.validation_every
        regular = every and (p.committed % every == 0 or p.committed >= terms.iterations)
        return bool(regular) and p.validated_at != p.tick

    def read(self, loss: float) -> None:
        """It is over."""
        p, mended = self._desk.progress, self._mending.unread is not None
        self._desk.note(ValidationRecord(p.committed, p.tick, loss, after_repair=mended))
        self._desk.update(validation=loss, validated_at=p.tick)
        self._mending.read(loss)

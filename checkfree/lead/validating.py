"""When the committed weights are validated, and what is written down of it."""

from __future__ import annotations

from checkfree.core.records import ValidationRecord
from checkfree.lead.recovery import RecoveryCoordinator
from checkfree.lead.state import LeadState


class Validating:
    """Every so often, at the end, and right after a repair that may have cost something."""

    def __init__(self, lead_state: LeadState, coordinator: RecoveryCoordinator):
        self._lead_state, self._coordinator = lead_state, coordinator

    def due(self) -> bool:
        """One is next."""
        p, terms = self._lead_state.progress, self._lead_state.terms
        if self._coordinator.unread is not None:
            return True
        every = terms.validation_every
        regular = every and (p.committed % every == 0 or p.committed >= terms.iterations)
        return bool(regular) and p.validated_at != p.tick

    def read(self, loss: float) -> None:
        """It is over."""
        p, mended = self._lead_state.progress, self._coordinator.unread is not None
        self._lead_state.note(ValidationRecord(p.committed, p.tick, loss, after_repair=mended))
        self._lead_state.update(validation=loss, validated_at=p.tick)
        self._coordinator.read(loss)

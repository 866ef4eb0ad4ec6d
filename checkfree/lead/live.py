"""What the lead tells of a run while it goes on, beside its records: which stages are replayed and
how far they are, and since when one could not be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from checkfree.core.ops import LOG, Address, View
from checkfree.lead.phase import Phase
from checkfree.lead.recovery import RecoveryCoordinator
from checkfree.lead.state import LeadState
from checkfree.messages.control import Underway
from checkfree.recovery.replay.plan import begins
from checkfree.recovery.replay.promise import whole


class Exposure:
    """The stages that a replay would give back if they were lost now, each by itself.

    ``begins``: the version that a stage's replay would begin at; ``since``: of the other living
    stages, before which iteration that was seen first; ``fatal``: machines of which something would
    not. None: nobody has looked yet.
    """

    def __init__(self) -> None:
        self.begins: Mapping[int, int] | None = None
        self.since: Mapping[int, int] | None = None
        self.fatal: tuple[str, ...] = ()
        self._seen: Any = None

    def look(self, view: View, machines: Mapping[Address, str] = MappingProxyType({})) -> None:
        """Before an iteration. Looking costs as much as planning a replay of each stage, a second
        with logs of 3,000 iterations; and one more of the same seats leaves none of them better or
        worse off."""
        seen = _decisive(view), dict(machines)
        if seen != self._seen:
            known, self.begins = self.since or {}, begins(view)
            exposed = sorted({seat.stage for seat in view.alive} - self.begins.keys())
            self.since = {stage: known.get(stage, view.committed) for stage in exposed}
            self.fatal = tuple(name for name, can in whole(view, machines).items() if not can)
        self._seen = seen


def _decisive(view: View) -> Any:
    """All that protection hangs on, but how many iterations there are since the base."""
    have = view.protection
    assert have is not None
    passed = frozenset(stage for stage, at in have.since.items() if at < view.committed)
    return view.alive, view.rejected, replace(have, routes={}), passed


class LiveReport:
    """The lead's account of a run whose strategy replays stages; others have nothing to tell."""

    def __init__(self, lead_state: LeadState, coordinator: RecoveryCoordinator):
        self._lead_state, self._coordinator = lead_state, coordinator
        self.exposure = Exposure()
        self._told = Underway(True, (), None)

    def look(self) -> None:
        """Before an iteration, with all that counts by then."""
        if self._lead_state.replays.on:
            locations = self._lead_state.members.locations
            machines = {seat: at.machine for seat, at in locations.items()}
            self.exposure.look(self._lead_state.view(), machines)

    def tell(self, phase: Phase) -> None:
        """What has changed since the last time."""
        members = self._lead_state.members
        if not self._lead_state.replays.on:
            return
        now = Underway(
            whole=members.whole() and not members.uninitialized,
            replays=self._coordinator.replays() if phase is Phase.REBUILDING else (),
            unprotected=self.exposure.since,
        )
        if now != self._told:
            self._lead_state.send(LOG, now)
        self._told = now

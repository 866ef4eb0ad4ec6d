"""The lead's eye on those who live and don't get on; see ``stall`` for how it judges."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from checkfree.core.ops import Address
from checkfree.runtime.swarm.presence.stall import Activity, IterationTimer, find_stall
from checkfree.runtime.swarm.transport.frames import Peer


class Watch:
    """``pulses`` are the last of each peer; ``give_up`` is told of whoever holds the others up, in
    words how, and of who waits for it, if somebody does."""

    def __init__(
        self,
        patience: float,
        pulses: Mapping[Peer, Mapping[str, Any]],
        give_up: Callable[[Peer, str, Peer | None], None],
    ):
        self.pace = IterationTimer(patience)
        self._pulses, self._give_up = pulses, give_up

    def look(self, present: Collection[Peer]) -> None:
        """At all who are here. Call it with every beat."""
        deadline = self.pace.deadline
        if deadline is None:
            return
        stall = find_stall(self._doings(present), deadline)
        for peer in [p for p in present if stall is not None and p.seat == stall.seat]:
            assert stall is not None
            waiter = next((p for p in present if p.seat == stall.waiter), None)
            self._give_up(peer, stall.why, waiter)

    def _doings(self, present: Collection[Peer]) -> dict[Address, Activity]:
        """Whoever tells rubbish is at nothing."""
        found = {}
        for peer in present:
            plain = self._pulses.get(peer, {}).get("doing")
            try:
                found[peer.seat] = Activity.from_json(plain)
            except (TypeError, ValueError):
                continue
        return found

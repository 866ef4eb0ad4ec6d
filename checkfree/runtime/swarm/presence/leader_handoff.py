"""What the launcher tells a lead that follows another: who was there, and what was done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from checkfree.core.ops import Address
from checkfree.runtime.swarm.presence.peer_table import PeerTable
from checkfree.runtime.swarm.transport.frames import Peer


class LeaderHandoff:
    """Of nothing, as long as ``told`` is None: the first lead has no other before it."""

    def __init__(self) -> None:
        self.told: Mapping[str, Any] | None = None
        self._returning: dict[Address, int] = {}

    @property
    def started(self) -> bool:
        """Another lead had begun to train."""
        return self.told is not None and bool(self.told["started"])

    @property
    def struck(self) -> tuple[int, ...]:
        """Ticks of the trace that other leads had struck."""
        return () if self.told is None else tuple(self.told["struck"])

    def found(self) -> Iterator[tuple[Address, int, Peer | None]]:
        """Of each seat its newest life, and where it is; None: the launcher knows nobody."""
        for seat, life, at in () if self.told is None else self.told["found"]:
            yield Address.parse(seat), life, None if at is None else Peer.from_json(at)

    def expect(self, seat: Address, life: int) -> None:
        """This one should find the new lead."""
        self._returning[seat] = life

    def missing(self, peer_table: PeerTable) -> list[Address]:
        """Of those, who has not come, and may still."""
        lives, present = peer_table.lives, peer_table.present
        back = self._returning.items()
        return [seat for seat, life in back if lives[seat] == life and seat not in present]

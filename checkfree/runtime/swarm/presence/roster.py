"""What a lead has to know of those before it: its launcher tells it, or, for one that is started
again, a file that each of them keeps: the launcher's memory ends with the launcher."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkfree.core.errors import RunFailed
from checkfree.core.ops import Address
from checkfree.runtime.files import write_whole
from checkfree.runtime.swarm.presence.peer_table import PeerTable
from checkfree.runtime.swarm.transport.frames import BadFrame, Peer


@dataclass(frozen=True)
class Roster:
    """``lead`` is the life of the newest lead, ``lives`` those of all seats, ``peers`` who sat
    there, ``struck`` the ticks of the trace that are over. Members that know the ``incarnation``
    go on; all others begin anew. Of nodes, by their ids: which pairs are ``apart``, which are
    ``drained``, and how fast those are that are not as fast as others."""

    incarnation: str
    lead: int = 0
    started: bool = False
    lives: Mapping[Address, int] = field(default_factory=dict)
    peers: tuple[Peer, ...] = ()
    struck: tuple[int, ...] = ()
    apart: frozenset[frozenset[str]] = frozenset()
    drained: frozenset[str] = frozenset()
    speed: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Roster | None:
        """None if there is none, or it is damaged."""
        try:
            plain = json.loads(path.read_text())
            return cls(
                str(plain["incarnation"]),
                int(plain["lead"]),
                bool(plain["started"]),
                {Address.parse(seat): int(life) for seat, life in plain["lives"].items()},
                tuple(map(Peer.from_json, plain["peers"])),
                tuple(map(int, plain["struck"])),
                frozenset(frozenset(map(str, pair)) for pair in plain["apart"]),
                frozenset(map(str, plain["drained"])),
                {str(node): float(speed) for node, speed in plain["speed"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, BadFrame):
            return None

    def save(self, path: Path) -> None:
        """Whole or not at all. One that can't be written is no reason to stop."""
        plain = {
            **vars(self),
            "lives": {str(seat): life for seat, life in self.lives.items()},
            "peers": [peer.to_json() for peer in self.peers],
            "apart": sorted(map(sorted, self.apart)),
            "drained": sorted(self.drained),
        }
        with suppress(RunFailed):
            write_whole(path, json.dumps(plain).encode())

    def found(self) -> list[list[Any]]:
        """As a launcher tells a lead: of each seat its life, and where it is."""
        at = {(peer.seat, peer.life): peer.to_json() for peer in self.peers}
        return [[str(seat), life, at.get((seat, life))] for seat, life in self.lives.items()]


class LeaderHandoff:
    """What the launcher tells a lead that follows another: who was there, and what was done.
    Nothing, as long as ``told`` is None: the first lead has no other before it."""

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

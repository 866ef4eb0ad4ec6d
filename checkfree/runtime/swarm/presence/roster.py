"""What a lead that is started again has to know of those before it, in a file that each of them
keeps: the launcher's memory ends with the launcher."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkfree.core.errors import RunFailed
from checkfree.core.ops import Address
from checkfree.runtime.files import write_whole
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

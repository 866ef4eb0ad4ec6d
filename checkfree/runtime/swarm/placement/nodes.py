"""What a node says of itself when it joins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

LONGEST_NAME = 64
MOST_SEATS = 1024


@dataclass(frozen=True)
class Node:
    """One ``checkfree swarm join``. ``host`` is the machine (or what is lost with it), ``zone``
    what is lost together now and then. ``room``: seats that it takes at most. ``reserve``: it
    takes one only where nobody else can. ``reads``: the run's data are there, so it can have
    stage 0."""

    id: str
    host: str
    zone: str = ""
    room: int = 1
    reserve: bool = False
    reads: bool = True

    def to_json(self) -> dict[str, Any]:
        """Plain data that :meth:`from_json` makes the same of."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Any) -> Node:
        """Raises ValueError for anything else."""
        if not isinstance(plain, Mapping) or plain.keys() != cls.__dataclass_fields__.keys():
            raise ValueError(f"no node: {plain!r:.80}")
        made = cls(**plain)
        names = (made.id, made.host, made.zone)
        if not all(type(name) is str and len(name) <= LONGEST_NAME for name in names):
            raise ValueError("a node's names are short texts")
        if type(made.room) is not int or not 0 < made.room <= MOST_SEATS:
            raise ValueError(f"a node has room for 1 to {MOST_SEATS} seats")
        if type(made.reserve) is not bool or type(made.reads) is not bool:
            raise ValueError("a node is a reserve, or none, and reads data or not")
        return made

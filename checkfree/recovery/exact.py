"""The rules that give a stage back with the very bits that it had, by the names that records have.

What they make costs nothing: no validation tells its price, and nobody waits for something better.
"""

from __future__ import annotations

from checkfree.core.ops import Repair
from checkfree.messages.control import HANDOVER

BACK = "back"
"""From the memory of whoever had it: its life was over, and it has come back."""
REPLICA = "replica"
REDUNDANT_COPY = "redundant copy"
EMBEDDING_COPY = "embedding copy"
REPLAY = "replay"
"""From an exact copy of an earlier version, and what its neighbours have sent since then."""

EXACT = frozenset((BACK, HANDOVER, REPLICA, REPLAY, REDUNDANT_COPY, EMBEDDING_COPY))


def is_exact(repair: Repair) -> bool:
    """All that it rebuilds is as it was."""
    return all(recipe.rule in EXACT for recipe in repair.rebuild.values())

"""Names of peers, as libp2p would give them."""

from __future__ import annotations

import hashlib

from checkfree.runtime.swarm.transport.addresses import _to_base58


def id_of(name: str) -> str:
    """One for each name, always the same."""
    return _to_base58(b"\x12\x20" + hashlib.sha256(name.encode()).digest())

"""How two processes of a swarm call each other: real daemons, real sockets."""

from __future__ import annotations

import queue
from pathlib import Path

import pytest

pytest.importorskip("hivemind")

from checkfree.core.ops import Address
from checkfree.messages import codec
from checkfree.runtime.swarm.transport.frames import Peer
from checkfree.runtime.swarm.transport.network_thread import NetworkThread, PeerMessage

TABLE = Path("/proc/net/tcp")
ESTABLISHED = "01"
WITHIN = 30.0  # seconds


@pytest.mark.skipif(not TABLE.exists(), reason="reads Linux' table of connections")
def test_nobody_calls_from_the_port_that_it_listens_at(tmp_path: Path) -> None:
    """Two that called each other at once from there would get one connection, and neither a
    stream over it."""
    networks = []
    try:
        for stage in range(2):
            folder = tmp_path / str(stage)
            folder.mkdir()
            networks.append(NetworkThread(b"secret", codec.Limits()))
            networks[-1].open(folder, folder / "id")
        first, second = (c.sit(Address(n), 0) for n, c in enumerate(networks))
        networks[0].learn(second)
        networks[0].notify(second.seat, {"heard": True})
        assert noticed(networks[1]) == PeerMessage(first, {"heard": True})
        listening = {port(first), port(second)}
        found = [pair for pair in connections() if set(pair) & listening]
        assert found
        assert all(set(pair) - listening for pair in found)
    finally:
        for network in networks:
            network.close()


def noticed(network: NetworkThread) -> PeerMessage | None:
    try:
        while True:
            item = network.inbox.get(timeout=WITHIN)
            if isinstance(item, PeerMessage):
                return item
    except queue.Empty:
        return None


def port(peer: Peer) -> int:
    return int(peer.addresses[0].rpartition("/")[2])


def connections() -> list[tuple[int, int]]:
    """The ports at both ends of each."""
    rows = [line.split() for line in TABLE.read_text().splitlines()[1:]]
    ends = [(row[1], row[2]) for row in rows if row[3] == ESTABLISHED]
    return [(int(a.rpartition(":")[2], 16), int(b.rpartition(":")[2], 16)) for a, b in ends]

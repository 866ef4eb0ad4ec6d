"""How two processes of a swarm call each other: real daemons, real sockets."""

from __future__ import annotations

import queue
from pathlib import Path

import pytest

pytest.importorskip("hivemind")

from checkfree.messages import codec
from checkfree.ops import Address
from checkfree.runtime.swarm.transport.courier import Courier, Noticed
from checkfree.runtime.swarm.transport.frames import Peer

TABLE = Path("/proc/net/tcp")
ESTABLISHED = "01"
WITHIN = 30.0  # seconds


@pytest.mark.skipif(not TABLE.exists(), reason="reads Linux' table of connections")
def test_nobody_calls_from_the_port_that_it_listens_at(tmp_path: Path) -> None:
    """Two that called each other at once from there would get one connection, and neither a
    stream over it."""
    couriers = []
    try:
        for stage in range(2):
            folder = tmp_path / str(stage)
            folder.mkdir()
            couriers.append(Courier(b"secret", codec.Limits()))
            couriers[-1].open(folder, folder / "id")
        first, second = (c.sit(Address(n), 0) for n, c in enumerate(couriers))
        couriers[0].learn(second)
        couriers[0].notify(second.seat, {"heard": True})
        assert noticed(couriers[1]) == Noticed(first, {"heard": True})
        listening = {port(first), port(second)}
        found = [pair for pair in connections() if set(pair) & listening]
        assert found
        assert all(set(pair) - listening for pair in found)
    finally:
        for courier in couriers:
            courier.close()


def noticed(courier: Courier) -> Noticed | None:
    try:
        while True:
            item = courier.inbox.get(timeout=WITHIN)
            if isinstance(item, Noticed):
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

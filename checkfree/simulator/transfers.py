"""How long states travel: to holders of copies, to the store, and to seats that are rebuilt."""

from __future__ import annotations

from collections.abc import Sequence

from checkfree.core.ops import STORE, Address, Keep
from checkfree.simulator.fleet import Fleet
from checkfree.simulator.iteration import NetworkLines


def push_seconds(copies: Sequence[tuple[Keep, int]], fleet: Fleet) -> float:
    """For whole states to reach their holders, all at once; ``int``: bytes."""
    lines = NetworkLines(fleet)
    arrivals = [lines.send(0.0, keep.owner, keep.holder, count) for keep, count in copies]
    return max(arrivals, default=0.0)


def upload_seconds(counts: Sequence[int], fleet: Fleet) -> float:
    """For a checkpoint of so many bytes a node; one thread writes one after another."""
    together = sum(counts) if fleet.serial else max(counts, default=0)
    return together / fleet.store


def rebuild_seconds(replies: Sequence[tuple[Address, Address, int]], fleet: Fleet) -> float:
    """From the order until every seat has its sources: (seat, holder, bytes) of each."""
    lines, arrivals = NetworkLines(fleet), [0.0]
    from_store = 0.0
    for seat, holder, count in replies:
        if holder == STORE:
            from_store += count
            arrivals.append((from_store if fleet.serial else count) / fleet.store)
        else:
            asked = fleet.link(seat, holder).latency if seat != holder else 0.0
            arrivals.append(lines.send(asked, holder, seat, count))
    return max(arrivals)

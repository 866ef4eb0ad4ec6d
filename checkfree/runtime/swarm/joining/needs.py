"""Which seat is needed most: the choice for whoever comes. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from checkfree.ops import Address


def most_needed(vacant: Collection[Address], taken: Collection[Address]) -> Address | None:
    """Of the ``vacant`` seats one of a stage that nobody sits at, else of the stage with the
    fewest replicas; of equals the first. None: nothing is vacant, and whoever comes stands by.

    ``taken`` are seats with somebody, or with somebody on the way.
    """
    replicas = Counter(seat.stage for seat in taken)
    return min(vacant, key=lambda seat: (replicas[seat.stage], seat), default=None)


def missing_stages(seats: Collection[Address], taken: Collection[Address]) -> tuple[int, ...]:
    """Stages that nobody sits at: the run waits for each of them."""
    return tuple(sorted({seat.stage for seat in seats} - {seat.stage for seat in taken}))

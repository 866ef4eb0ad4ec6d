"""Which links are slow, and in how few bits they carry what stages send to each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from checkfree.core.formats import BF16, INT4, INT8
from checkfree.core.links import Way
from checkfree.core.ops import Address
from checkfree.simulator.fleet import Fleet
from checkfree.simulator.sizes import ComputePace, Sizes

THERE: tuple[str, ...] = BF16, INT8
BACK: tuple[str, ...] = BF16, INT8, INT4
"""For activations and for gradients, from fine to coarse. These cost nothing that could be
measured; activations in 4 bits cost 0.1 nats, see ``experiments/wire_formats``."""

SHARE = 0.1
"""Of what an end computes for a microbatch, that a message may take: a pipe that fills and drains
waits for every hop of its way, so that much longer it takes."""


def ways_between(seats: Collection[Address], reach: int = 1) -> tuple[Way, ...]:
    """Both ways between seats whose stages are at most ``reach`` hops apart; stage 0 comes after
    the last one, too."""
    count = 1 + max(seat.stage for seat in seats)
    apart = {step % count for step in range(-reach, reach + 1)} - {0}
    return tuple(
        (one, other)
        for one in sorted(seats)
        for other in sorted(seats)
        if (other.stage - one.stage) % count in apart
    )


def coarse_links(
    ways: Collection[Way], fleet: Fleet, sizes: Sizes, pace: ComputePace
) -> Mapping[Way, str]:
    """The format of each link that is slow: on which a message, as all are sent, takes longer than
    a tenth of what either end computes for it. It gets the finest format that is fast enough, or
    the coarsest there is, which is ``int4`` for links that carry gradients alone. Latency is the
    same in any format."""
    least, count = min(sizes.activation, sizes.gradient), len(sizes.params)
    found: dict[Way, str] = {}
    for one, other in ways:
        link = fleet.link(one, other)
        back = sizes.visits == 1 and (one.stage - other.stage) % count == 1
        there = (other.stage - one.stage) % count == 1
        if back and not there:
            ladder, usual = BACK, sizes.gradient
            takes = max(pace.backward(one), pace.backward(other))
        else:
            ladder, usual = THERE, sizes.activation
            takes = max(pace.forward(one), pace.forward(other))
        options = [how for how in ladder if sizes.written[how] < least]
        if options and link.seconds(usual) > SHARE * takes:
            fits = (how for how in options if link.seconds(sizes.written[how]) <= SHARE * takes)
            found[one, other] = next(fits, options[-1])
    return found

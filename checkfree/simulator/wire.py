"""Which links are slow, and in how few bits they carry what stages send to each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from checkfree.core.formats import BF16, INT4, INT8
from checkfree.core.links import Way
from checkfree.core.ops import Address
from checkfree.simulator.fleet import Fleet
from checkfree.simulator.sizes import ComputePace, Sizes

LADDER = (BF16, INT8)
"""From fine to coarse. These cost nothing that could be measured, see ``experiments/wire_formats``;
activations in 4 bits do, and so do gradients without error feedback."""

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
    ways: Collection[Way], fleet: Fleet, sizes: Sizes, pace: ComputePace, *, feedback: bool
) -> Mapping[Way, str]:
    """The format of each link that is slow: on which a message, as all are sent, takes longer than
    a tenth of what either end computes for it. It gets the finest format that is fast enough, or
    the coarsest there is: ``int4`` for links that carry gradients alone, with error ``feedback``.
    Latency is the same in any format."""
    least, count = min(sizes.activation, sizes.gradient), len(sizes.params)
    coarser = [how for how in LADDER if sizes.written[how] < least]
    found: dict[Way, str] = {}
    for one, other in ways:
        link, back = fleet.link(one, other), (one.stage - other.stage) % count == 1
        there = (other.stage - one.stage) % count == 1
        options = coarser
        if back and not there:
            usual, limit = sizes.gradient, SHARE * max(pace.backward(one), pace.backward(other))
            if feedback and sizes.written[INT4] < least:
                options = [*coarser, INT4]
        else:
            usual, limit = sizes.activation, SHARE * max(pace.forward(one), pace.forward(other))
        if options and link.seconds(usual) > limit:
            fits = (how for how in options if link.seconds(sizes.written[how]) <= limit)
            found[one, other] = next(fits, options[-1])
    return found

"""Which workers a microbatch visits: in order, with swapped ends, over the living replicas.

All arithmetic on stages stands here. A route goes out from stage 0, which embeds, through the body
stages 1 ... n, and ends at the same seat of stage 0, which takes the loss::

    in order   0.0 > 1.0 > 2.0 > 3.0 > 4.0 > 0.0
    swapped    0.0 > 2.0 > 1.0 > 4.0 > 3.0 > 0.0     (CheckFree+, arXiv 2506.15461, section 4.3)
    in a V     0.0 > 1.0 > 2.0 > 3.0 > 4.0 > 4.0 > 3.0 > 2.0 > 1.0 > 0.0     (two chunks a seat)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fractions import Fraction
from math import floor

from checkfree.core.errors import BadInput
from checkfree.core.ops import Address, Route
from checkfree.models.chunks import Chunks

FEWEST_TO_SWAP = 4
"""Body stages below which the first two and the last two are not four different ones."""


def in_order(seats: Collection[Address], num_microbatches: int) -> tuple[Route, ...]:
    """One route per microbatch: stage 0, body stages 1 ... n in order, stage 0 again.

    At each stage, microbatch m goes over ``living[m % len(living)]``, living seats in address
    order. n is the highest stage among ``seats``. Raises ValueError if a stage below has no seat.
    """
    living = by_stage(seats)
    itinerary = [*living, living[0]]
    return tuple(
        tuple(replicas[microbatch % len(replicas)] for replicas in itinerary)
        for microbatch in range(num_microbatches)
    )


def revisiting(routes: Sequence[Route], chunks: Chunks) -> tuple[Route, ...]:
    """Each route with the second visits of its body seats, if they have two chunks: once more in
    the same order, or back again."""
    match chunks:
        case Chunks.WHOLE:
            return tuple(routes)
        case Chunks.LOOP:
            return tuple((embed, *body, *body, loss) for embed, *body, loss in routes)
        case Chunks.V:
            return tuple((embed, *body, *body[::-1], loss) for embed, *body, loss in routes)


def visits(route: Route) -> int:
    """How often a route comes to each of its body seats: once a chunk."""
    return max(1, (len(route) - 2) // max(1, len(set(route[1:-1]))))


def by_stage(seats: Collection[Address]) -> list[list[Address]]:
    """The seats of each stage 0 ... n, in address order. Raises ValueError if one has none."""
    highest = max((seat.stage for seat in seats), default=0)
    living = [sorted(s for s in set(seats) if s.stage == stage) for stage in range(highest + 1)]
    for stage, replicas in enumerate(living):
        if not replicas:
            raise ValueError(f"no route: stage {stage} has no living seat (stages 0 ... {highest})")
    return living


def swapped(routes: Sequence[Route], share: float = 0.5) -> tuple[Route, ...]:
    """CheckFree+: ``share`` of the microbatches visit both ends in exchanged order.

    A swapped route is 0 > 2 > 1 > 3 ... n-2 > n > n-1 > 0, with the replica of each seat kept.
    Raises BadInput below 4 body stages, or if ``share`` is outside [0, 1].
    """
    check_swap(min((len(route) - 2 for route in routes), default=FEWEST_TO_SWAP), share)
    return tuple(
        _swap_ends(route) if is_swapped(microbatch, share) else route
        for microbatch, route in enumerate(routes)
    )


def check_swap(num_body: int, share: float) -> None:
    """Raises BadInput unless ``share`` of the microbatches can swap ends of ``num_body`` stages."""
    check_share(share)
    if num_body < FEWEST_TO_SWAP:
        raise BadInput(
            f"swapping both ends takes at least {FEWEST_TO_SWAP} body stages, got {num_body}: "
            f"set stages to {FEWEST_TO_SWAP} or more, or recovery.name to checkfree"
        )


def check_share(share: float) -> None:
    """Raises BadInput outside of [0, 1]."""
    if not 0 <= share <= 1:
        raise BadInput(
            f"recovery.share={share}: expected a share of the microbatches in [0, 1]; the paper "
            "swaps 0.5 of them"
        )


def is_swapped(microbatch: int, share: float) -> bool:
    """Whether microbatch m runs swapped: iff floor((m + 1) share) > floor(m share)."""
    # The share as it is written: 10 times the float 0.3 is less than 3.
    exact = Fraction(str(share))
    return floor((microbatch + 1) * exact) > floor(microbatch * exact)


def _swap_ends(route: Route) -> Route:
    embed, first, second, *middle, before_last, last, loss = route
    return (embed, second, first, *middle, last, before_last, loss)


def previous(stage: int, num_body: int) -> int | None:
    """The body stage before a body stage; None for S1. Raises ValueError for any other."""
    _check_body(stage, num_body)
    return stage - 1 if stage > 1 else None


def next(stage: int, num_body: int) -> int | None:
    """The body stage after a body stage; None for Sn. Raises ValueError for any other."""
    _check_body(stage, num_body)
    return stage + 1 if stage < num_body else None


def neighbours(stage: int, num_body: int) -> tuple[int, ...]:
    """The body stages beside a body stage, in order: two in the middle, one at an edge. Raises
    ValueError for a stage that is none of the body."""
    both = previous(stage, num_body), next(stage, num_body)
    return tuple(beside for beside in both if beside is not None)


def _check_body(stage: int, num_body: int) -> None:
    if not 1 <= stage <= num_body:
        raise ValueError(f"stage {stage} is not in the body 1 … {num_body}")


def swap_partner(stage: int, num_body: int) -> int | None:
    """The stage that CheckFree+ exchanges a stage with: 1 <-> 2 and n <-> n-1; else None."""
    if num_body < FEWEST_TO_SWAP:
        return None
    pairs = {1: 2, 2: 1, num_body: num_body - 1, num_body - 1: num_body}
    return pairs.get(stage)


def ring_successor(stage: int, num_stages: int) -> int:
    """The stage after ``stage`` of 0 ... n, stage 0 after the last: the order of a route."""
    return (stage + 1) % num_stages


def far_away(stage: int, num_stages: int) -> tuple[int, ...]:
    """The other stages, the one half the ring away first, then round it: so that adjacent stages
    have their like far from each other."""
    ring = ((stage + num_stages // 2 + step) % num_stages for step in range(num_stages))
    return tuple(other for other in ring if other != stage)


def beside_on_routes(stage: int, routes: Sequence[Route]) -> tuple[frozenset[int], frozenset[int]]:
    """The stages that a stage's body gets its input from, and those that read its output, on any
    of the routes; both empty for stage 0. What it passes on to itself, at the turn of a V, nobody
    else has."""
    before, after = set(), set()
    for route in routes:
        for hop, seat in enumerate(route[1:-1], 1):
            ends = route[hop - 1].stage, route[hop + 1].stage
            if seat.stage == stage and stage not in ends:
                before.add(ends[0])
                after.add(ends[1])
    return frozenset(before), frozenset(after)

"""How long making and checking a schedule takes, and how that grows. Run from the repository root:

python benchmarks/schedule.py [--sizes 4]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial

from checkfree.core.ops import Address, Kind, Op, Route, Schedule
from checkfree.pipeline import (
    SCHEDULES,
    TWICE,
    Costs,
    check,
    gpipe,
    key,
    one_f_one_b,
    peak_stash,
    split_backwards,
    timeline,
    zb_h1,
    zb_h2,
)
from checkfree.pipeline.expected import bubble
from checkfree.pipeline.routes import in_order, revisiting, swapped
from checkfree.pipeline.timeline import Spans

SIZES = (8, 64), (16, 128), (32, 256), (64, 512)
COSTS = Costs()


def main() -> None:
    """Prints one row for each schedule and size; growth is that of the seconds per op."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--sizes", type=int, default=len(SIZES), help="how many, the smallest first"
    )
    sizes = SIZES[: parser.parse_args().sizes]
    print(
        "body stages x microbatches   schedule       make s   check s   us/op  growth  span  bubble"
        "  stash"
    )
    for name, make, route in (
        ("gpipe", gpipe, tuple),
        ("1f1b", one_f_one_b, tuple),
        ("1f1b swapped", one_f_one_b, swapped),
        ("zb_h1", zb_h1, tuple),
        ("zb_h1 swapped", zb_h1, swapped),
        ("zb_h2", zb_h2, tuple),
        ("zb_h2 swapped", zb_h2, swapped),
        *((name, SCHEDULES[name], partial(revisiting, chunks=TWICE[name])) for name in TWICE),
    ):
        before = None
        for num_body, num_microbatches in sizes:
            seats = [Address(stage) for stage in range(num_body + 1)]
            routes = route(in_order(seats, num_microbatches))
            made, make_s = timed(lambda: make(routes))  # noqa: B023 (called at once)
            _, check_s = timed(lambda: check(made, routes))  # noqa: B023
            each = 1e6 * (make_s + check_s) / sum(map(len, made.values()))
            growth = f"{each / before:.2f}" if before else "-"
            before, spans = each, in_time(made, routes)
            span = max(end for _, end in spans.values())
            print(
                f"{num_body:11} x {num_microbatches:<13}  {name:13} {make_s:7.2f} {check_s:9.2f} "
                f"{each:7.1f} {growth:>7} {span:6.0f} {bubble(spans):6.1f} "
                f"{max(peak_stash(made).values()):6}"
            )


def timed(call: Callable[[], Schedule | None]) -> tuple[Schedule, float]:
    """The result of a call, and the seconds that it took."""
    start = time.perf_counter()
    result = call()
    return result or {}, time.perf_counter() - start


def in_time(schedule: Schedule, routes: Sequence[Route]) -> Spans:
    """When each op runs, in forwards of one body stage."""
    split = split_backwards(schedule)

    def seconds(worker: Address, op: Op) -> float:
        if op.kind is Kind.REDUCE:
            return 0.0
        return COSTS.duration(op, routes[op.microbatch], key(op) in split)

    return timeline(schedule, routes, seconds, transfer=lambda *_: 0.0)


if __name__ == "__main__":
    main()

"""The order of ops on every worker: made, checked, drawn as text, and laid out in time.

    one_f_one_b(in_order(seats, 8))     ->  Schedule, one tuple of ops per worker
    check(schedule, routes)             ->  raises unless it can run and covers its routes
    render(schedule)                    ->  the grid that you know from papers; parse() reads it
    timeline(schedule, routes, ...)     ->  when each op begins and ends, in seconds

Nothing here knows a chain of stages: whom an op waits for is read off the microbatch's route.
"""

from checkfree.pipeline.check import check, peak_losses, peak_split, peak_stash
from checkfree.pipeline.make import (
    SCHEDULES,
    TWICE,
    Costs,
    Scheduler,
    chunks_of,
    forward_only,
    gpipe,
    interleaved,
    one_f_one_b,
    v_half,
    v_min,
    zb_h1,
    zb_h2,
    zbv,
)
from checkfree.pipeline.order import (
    DeadlockError,
    ScheduleError,
    in_turn,
    key,
    needs,
    split_backwards,
)
from checkfree.pipeline.picture import parse, render
from checkfree.pipeline.timeline import makespan, timeline

__all__ = [
    "SCHEDULES",
    "TWICE",
    "Costs",
    "DeadlockError",
    "ScheduleError",
    "Scheduler",
    "check",
    "chunks_of",
    "forward_only",
    "gpipe",
    "in_turn",
    "interleaved",
    "key",
    "makespan",
    "needs",
    "one_f_one_b",
    "parse",
    "peak_losses",
    "peak_split",
    "peak_stash",
    "render",
    "split_backwards",
    "timeline",
    "v_half",
    "v_min",
    "zb_h1",
    "zb_h2",
    "zbv",
]

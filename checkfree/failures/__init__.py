"""Which stages are lost, and when. Data only: nothing is killed here.

``trace`` has the words, ``scenarios.sample`` makes a trace from a configuration, ``spot`` from
what happened to spot instances, ``files`` reads and writes it, ``render`` shows it. Semantics 2
and 4 to 9 say what a trace means.
"""

from checkfree.failures.files import read_trace, render_trace, write_trace
from checkfree.failures.paper import PER_ITERATION, presets, rate_of
from checkfree.failures.rates import (
    implied_seconds,
    poisson_rate_per_hour,
    probability_per_tick,
    tick_probability,
)
from checkfree.failures.render import picture, summary
from checkfree.failures.samplers import SAMPLERS, arrivals, pack
from checkfree.failures.scenarios import CLOCK, is_ours, is_trace_file, sample
from checkfree.failures.spot import Pipeline, import_spot
from checkfree.failures.targets import target_stages
from checkfree.failures.trace import STOP, Failure, Trace, make_trace, seats_hit, strikes

__all__ = [
    "CLOCK",
    "PER_ITERATION",
    "SAMPLERS",
    "STOP",
    "Failure",
    "Pipeline",
    "Trace",
    "arrivals",
    "implied_seconds",
    "import_spot",
    "is_ours",
    "is_trace_file",
    "make_trace",
    "pack",
    "picture",
    "poisson_rate_per_hour",
    "presets",
    "probability_per_tick",
    "rate_of",
    "read_trace",
    "render_trace",
    "sample",
    "seats_hit",
    "strikes",
    "summary",
    "target_stages",
    "tick_probability",
    "write_trace",
]

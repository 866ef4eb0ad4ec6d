"""What ``checkfree schedule`` shows: the very schedule that a configuration would train."""

from __future__ import annotations

from pathlib import Path

from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.core.ops import Address, Kind, Op, render_route
from checkfree.lead.iteration import course_on
from checkfree.pipeline import Costs, makespan, peak_stash, render, timeline
from checkfree.recovery.wrappers import make_strategy
from checkfree.report.schedule import draw_timeline
from checkfree.session.terms import seats, terms_of


def show_schedule(config: Config, picture: Path) -> str:
    """The schedule as text; its timeline goes to ``picture``. Raises BadInput if it can't."""
    strategy = make_strategy(config.recovery, config.checkpoint.every)
    terms = terms_of(config, None)
    plain = terms.routes(seats(config), config.microbatches)
    course = course_on(plain, strategy, terms.schedule, seats(config))
    routes, schedule = course.routes, course.schedule
    costs = Costs()

    def seconds(worker: Address, op: Op) -> float:
        return 0.0 if op.kind is Kind.REDUCE else costs.duration(op, routes[op.microbatch])

    def transfer(one: Address, other: Address) -> float:
        return costs.transfer

    swapped = [m for m, route in enumerate(routes) if route != plain[m]]
    spans = timeline(schedule, routes, seconds, transfer)
    try:
        draw_timeline(spans, picture, swapped)
    except (OSError, ValueError) as error:
        raise BadInput(f"--picture {picture} cannot be written: {error}") from None
    span = makespan(schedule, routes, seconds, transfer)
    busy = sum(end - start for start, end in spans.values()) / (span * len(seats(config)))
    lines = [render(schedule), ""]
    lines += [f"route {m}: {render_route(routes[m])}" for m in (0, *swapped[:1])]
    stash = max(peak_stash(schedule).values())
    lines += [
        f"length {span:.1f} forwards, {busy:.0%} busy, at most {stash} microbatches stashed",
        f"timeline: {picture}",
    ]
    return "\n".join(lines)

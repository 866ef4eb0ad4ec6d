"""What ``checkfree schedule`` shows: the very schedule that a configuration would train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from checkfree.config.stash import OFFLOAD, stash_of
from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.core.ops import Address, Kind, Op, Schedule, render_route
from checkfree.core.units import render_bytes
from checkfree.lead.iteration import course_on
from checkfree.models.chunks import Chunks
from checkfree.models.families import WRITTEN_HERE
from checkfree.pipeline import (
    Costs,
    chunks_of,
    key,
    makespan,
    peak_stash,
    render,
    split_backwards,
    timeline,
)
from checkfree.pipeline.expected import EXPECTED, bubble
from checkfree.pipeline.stash import peak_in_memory
from checkfree.recovery.options import AUTO
from checkfree.recovery.wrappers import make_strategy
from checkfree.report.schedule import draw_timeline
from checkfree.session.auto_schedule import ScheduleOption, chosen_of, schedule_options
from checkfree.session.stash import moving_of
from checkfree.session.terms import seats, terms_of

UNSEEN = (
    "W is empty where a module can't be split: this is seen when a run tries it, and told as it "
    "begins"
)


def show_schedule(config: Config, picture: Path) -> str:
    """The schedule as text; its timeline goes to ``picture``. Of ``auto``, all that were looked at
    come first. Raises BadInput if it can't."""
    options = schedule_options(config) if config.schedule == AUTO else ()
    if options:
        config = replace(config, schedule=chosen_of(options).name)
    strategy = make_strategy(config.recovery, config.checkpoint.every)
    terms = terms_of(config, None)
    plain = terms.routes(seats(config), config.microbatches)
    course = course_on(plain, strategy, terms.schedule, seats(config), terms.chunks)
    routes, schedule = course.routes, course.schedule
    costs, split = Costs(), split_backwards(schedule)

    def seconds(worker: Address, op: Op) -> float:
        if op.kind is Kind.REDUCE:
            return 0.0
        return costs.duration(op, routes[op.microbatch], key(op) in split)

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
    lines = [*_compared(options, config), render(schedule), ""]
    lines += [f"route {m}: {render_route(routes[m])}" for m in (0, *swapped[:1])]
    stash = max(peak_stash(schedule).values())
    held = "microbatches" if terms.chunks is Chunks.WHOLE else "microbatches of one chunk"
    lines += [
        f"length {span:.1f} forwards, {busy:.0%} busy, at most {stash} {held} stashed",
        f"bubble {bubble(spans):.1f} forwards: the most that a body stage idles between its first "
        "op and its last",
    ]
    if OFFLOAD in stash_of(config):
        lines.append(_offloaded(config, schedule))
    if split and config.model.family not in WRITTEN_HERE:
        lines.append(UNSEEN)
    if config.schedule in EXPECTED:
        lines.append(_expected(config, costs, crossing=bool(swapped)))
    lines.append(f"timeline: {picture}")
    return "\n".join(lines)


def _compared(options: Sequence[ScheduleOption], config: Config) -> Iterator[str]:
    """What each schedule would take, a line each."""
    for option in options:
        takes = render_bytes(option.bytes) if option.bytes else "not known"
        told = option.refused or f"{option.seconds:.3g} s an iteration, largest seat {takes}"
        yield f"{'*' if option.name == config.schedule else ' '} {option.name:<11}  {told}"
    if options:
        yield f"* {config.schedule} is taken, by the fleet {config.fleet.name}\n"


def _offloaded(config: Config, schedule: Schedule) -> str:
    """What those body seats move that offload, and what stays in the memory of the fullest."""
    moving, ways, found = moving_of(config), stash_of(config), [(0, 0)]
    for seat, ops in schedule.items():
        if seat.stage and ways[seat.stage] == OFFLOAD:
            moves = moving.chosen(seat.stage, ops)
            found.append((peak_in_memory(ops, moves, lambda hop: 1), len(moves.keys)))
    stays, moved = max(found)
    return (
        f"of seats that offload, at most {stays} microbatches in memory, those on their way "
        f"included; that one moves {moved} an iteration"
    )


def _expected(config: Config, costs: Costs, *, crossing: bool) -> str:
    """What the schedule's paper says of it."""
    expected, each = EXPECTED[config.schedule], -(-config.microbatches // config.replicas)
    most = each
    if expected.stash is not None:
        chunks = chunks_of(config.schedule).count
        most = min(chunks * each, expected.stash(config.stages + 2) + expected.crossing * crossing)
    return (
        f"by its paper {expected.bubble(config.stages, costs):.1f} = {expected.formula}, in order "
        f"and given {expected.many(config.stages)} or more microbatches; stash bound here: {most}"
    )

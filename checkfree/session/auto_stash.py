"""``stash=auto``: what each stage does with its stash, chosen before a run by the memory of the
machine that it is on, and by what it costs.

Seats that share a device have the same share each of the memory that is left there; what one does
not need, the others have. A stage whose stash needs no more keeps it. Another one offloads or
recomputes, whichever makes it wait or compute less: to recompute takes its forwards once more, to
offload what it waits for what it moves. No bit depends on it, so the choice may be another where
there is other memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from checkfree.config.stash import AUTO, KEEP, OFFLOAD, RECOMPUTE, WAYS, as_stash, stash_of
from checkfree.core.config import Config
from checkfree.core.ops import Address, Kind
from checkfree.core.units import render_bytes
from checkfree.runtime.forking import gpu_memory
from checkfree.session.memory import (
    DAEMON_BYTES,
    FIRST_BYTES,
    FORK_BYTES,
    SPARED,
    available,
    held_bytes,
    plain_schedule,
    stashed_bytes,
)
from checkfree.session.stash import moving_of
from checkfree.session.terms import devices_of

Memory = Callable[[str], int]
"""Bytes that there are on a device for what is new."""


def memory_of(device: str) -> int:
    """What is free of this machine's memory, or all that a GPU has."""
    return available() if device == "cpu" else gpu_memory(device)


def with_stash(
    config: Config, memory: Memory = memory_of, *, alone: bool = False
) -> tuple[Config, str]:
    """The configuration of a built-in model with ``auto`` decided, and a line on it; as it is, and
    "", if nothing is left to decide. ``alone``: each seat is on a machine like this one, and no
    other seat is there."""
    ways = stash_of(config)
    if AUTO not in ways:
        return config, ""
    plain = replace(config, stash=KEEP, recompute=False)
    kept = stashed_bytes(plain)
    left = _left(plain, kept, memory, alone=alone)
    tight = [s for s, way in enumerate(ways) if way == AUTO and kept[s] > left[s]]
    plain = replace(plain, stash_room=_room(plain, tight, left))
    costs = {way: _costs(plain, way, left) for way in (OFFLOAD, RECOMPUTE)} if tight else {}
    chosen = [
        min(costs, key=lambda way: costs[way][stage])
        if stage in tight
        else KEEP
        if way == AUTO
        else way
        for stage, way in enumerate(ways)
    ]
    room = plain.stash_room if OFFLOAD in chosen else config.stash_room
    found = replace(config, stash=as_stash(chosen), stash_room=room)
    most = min((s for s, way in enumerate(ways) if way == AUTO), key=lambda s: left[s] - kept[s])
    return found, (
        f"stash=auto: {_named(ways, chosen)} (S{most} would keep {render_bytes(kept[most])}, and "
        f"{render_bytes(max(0, left[most]))} are left for that)"
    )


def _left(config: Config, wanted: Sequence[int], memory: Memory, *, alone: bool) -> list[int]:
    """By stage, the bytes that its seat may have for its stash; below 0 where not even what it
    holds all the time has room. ``wanted``: what each would keep."""
    held, devices = held_bytes(config), devices_of(config)
    found: dict[int, int] = {}
    for device in dict.fromkeys(devices):
        stages = [stage for stage, name in enumerate(devices) if name == device]
        free, process = int((1 - SPARED) * memory(device)), 0
        if device == "cpu":
            free, process = free - FIRST_BYTES, FORK_BYTES + DAEMON_BYTES
        for group in [[stage] for stage in stages] if alone else [stages]:
            seats = group if alone else group * config.replicas
            rest = free - sum(held[stage] + process for stage in seats)
            found |= dict.fromkeys(group, level([wanted[stage] for stage in seats], rest))
    return [found[stage] for stage in range(len(devices))]


def level(wanted: Sequence[int], free: int) -> int:
    """The most that each may have, if none takes more than it wants and all together no more than
    is free; whatever is free, where all want less."""
    rest = sorted(wanted)
    for place, one in enumerate(rest):
        if one * (len(rest) - place) > free:
            return free // (len(rest) - place)
        free -= one
    return rest[-1] + free


def _room(config: Config, tight: Sequence[int], left: Sequence[int]) -> int | None:
    """What a stage that offloads may have in memory of what it moves, beside what it holds whatever
    becomes of that: enough for none of the ``tight`` to need more than is left."""
    if config.stash_room is not None or not tight:
        return config.stash_room
    schedule, moving = plain_schedule(config), moving_of(config)
    whole = stashed_bytes(replace(config, stash=OFFLOAD))
    rooms = []
    for stage in tight:
        ops = schedule[Address(stage)]
        beside = whole[stage] - moving.peak(stage, ops, moving.chosen(stage, ops))
        rooms.append(left[stage] - beside)
    return max(0, min(rooms))


def _costs(config: Config, way: str, left: Sequence[int]) -> list[tuple[int, float]]:
    """By stage, bytes by which it has too little memory, and seconds that an iteration is longer
    for it."""
    schedule, moving = plain_schedule(config), moving_of(config)
    found = []
    for stage, taken in enumerate(stashed_bytes(replace(config, stash=way))):
        ops = schedule[Address(stage)]
        if way == OFFLOAD:
            seconds = moving.waits(stage, ops, moving.chosen(stage, ops))
        else:
            forward = moving.pace.at(stage, ops)
            seconds = sum(forward(op) for op in ops if op.kind is Kind.FORWARD and op.hop)
        found.append((max(0, taken - left[stage]), seconds))
    return found


def _named(ways: Sequence[str], chosen: Sequence[str]) -> str:
    """``S0, S4 keep; S1, S2, S3 offload``"""
    decided = [stage for stage, way in enumerate(ways) if way == AUTO]
    parts = []
    for way in WAYS:
        stages = [f"S{stage}" for stage in decided if chosen[stage] == way]
        if stages:
            parts.append(f"{', '.join(stages) if len(stages) < len(ways) else 'all'} {way}")
    return "; ".join(parts)

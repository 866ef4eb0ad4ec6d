"""How much memory new processes could have, and how many seats that is good for."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from checkfree.config.stash import OFFLOAD, RECOMPUTE, stash_of
from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.core.formats import FP32, SIGNS
from checkfree.core.ops import Address, Schedule
from checkfree.core.units import render_bytes
from checkfree.data.tokenizers import tokenizer_of
from checkfree.pipeline import chunks_of, peak_losses, peak_split, peak_stash
from checkfree.pipeline.routes import in_order, revisiting
from checkfree.recovery.options import AUTO, SHADOW_FORMATS
from checkfree.recovery.registry import replays, spec_of
from checkfree.runtime.folder import CONFIG
from checkfree.session.sizes import logged_bytes, own_sizes, rounded_bytes
from checkfree.session.stash import moving_of
from checkfree.session.terms import scheduler_of
from checkfree.simulator.sizes import Sizes

FORK_BYTES = 100 << 20
"""What a further seat takes beside the stage, measured: its own pages of what forks share."""
DAEMON_BYTES = 65 << 20
"""What its libp2p daemon takes."""
FIRST_BYTES = 300 << 20
"""What the process takes that they are forks of: torch and hivemind, mostly."""
SPARED = 0.1
"""Share of what is available that is left alone."""

SIGNS_HELD = 4.3 / 4
"""Bytes for shadows of signs, per byte of weights in fp32: each seat is owner and holder."""

HALF_HELD = 0.6
"""Of a stash, what waits with it between the halves of a backward: the gradients by what each
matrix writes."""

_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_UNLIMITED = 1 << 60  # cgroups of version 1 write a number about as large


def seat_bytes(config: Config) -> int:
    """Of one seat, the one that takes most: what it holds all the time, what is stashed between
    forward and backward, and its processes."""
    both = zip(held_bytes(config), stashed_bytes(config), strict=True)
    return max(map(sum, both)) + FORK_BYTES + DAEMON_BYTES


def held_bytes(config: Config) -> list[int]:
    """By stage, what a seat holds all the time: weights twice (gradients), and rounded if they are,
    moments, buffers, what rounding took of a gradient for each seat that gets some, and what it
    holds for others."""
    sizes = own_sizes(config)
    owed = sizes.visits * config.replicas * sizes.written[FP32] if config.wire.feedback else 0
    return [
        2 * params
        + rounded_bytes(config, params)
        + moments
        + buffers
        + _held(config, sizes, stage)
        + owed
        for stage, (params, moments, buffers) in enumerate(
            zip(sizes.params, sizes.moments, sizes.buffers, strict=True)
        )
    ]


def plain_schedule(config: Config) -> Schedule:
    """That of a chain of one replica, which holds as many microbatches as any."""
    plain = in_order([Address(stage) for stage in range(config.stages + 1)], config.microbatches)
    return scheduler_of(config)(revisiting(plain, chunks_of(config.schedule)))


def stashed_bytes(config: Config) -> list[int]:
    """By stage: bytes of as many microbatches as the schedule has it hold at once. What recomputes
    holds all of those between the halves of their backwards, and of one whose backward is due; what
    offloads, those that stay, and those that are on their way. What came in stays of all."""
    sizes, ways, schedule = own_sizes(config), stash_of(config), plain_schedule(config)
    peak = {seat.stage: count for seat, count in peak_stash(schedule).items()}
    halves = {seat.stage: count for seat, count in peak_split(schedule).items()}
    moving = moving_of(config, sizes) if OFFLOAD in ways else None
    found = []
    for stage in range(config.stages + 1):
        one = sizes.stash_at(stage)
        inputs, ops = peak[stage] * sizes.activation, schedule[Address(stage)]
        if ways[stage] == RECOMPUTE:
            whole = inputs + max(1, halves[stage]) * one
        elif ways[stage] == OFFLOAD and moving is not None:
            moves = moving.chosen(stage, ops)
            away = min(peak[stage], len(moves.keys)) * sizes.activation
            whole = away + moving.peak(stage, ops, moves)
        else:
            whole = peak[stage] * one if stage else inputs + peak_losses(schedule) * one
        found.append(whole + int(HALF_HELD * halves[stage] * one))
    return found


def _held(config: Config, sizes: Sizes, stage: int) -> int:
    """Bytes of what a seat keeps for the sake of recovery. A stage that it mirrors is as large as
    its own; stage 0 holds, and is held, twice."""
    recovery, spec = config.recovery, spec_of(config.recovery)
    if spec.mirrors:
        return sizes.state(stage, moments=True) + rounded_bytes(config, sizes.params[stage])
    held = _replayable(config, sizes, stage)
    if not spec.pushes:
        return held
    how = SHADOW_FORMATS[recovery.shadow_format]
    shadow = SIGNS_HELD * sizes.params[stage] if how == SIGNS else sizes.packed[how][stage]
    return held + int(shadow) * (2 if stage == 0 else 1)


def _replayable(config: Config, sizes: Sizes, stage: int) -> int:
    """Bytes of the log, as far as it is in memory, and of the seat's own copies and those that it
    holds, while a wave is on its way: each twice."""
    if not replays(config.recovery):
        return 0
    copies = 1 + config.recovery.copies
    return logged_bytes(config, sizes) + 2 * copies * sizes.state(stage, moments=True)


def least_bytes(config: Config) -> int:
    """What a run takes of the machine's memory in one process at the very least: of every seat
    weights, gradients and moments, logs and copies for replays, and of one microbatch all that its
    loss is taken of, with the gradient by it. Of stages on CUDA devices, which tell by themselves
    that they are full, logs and copies alone."""
    sizes = own_sizes(config)
    kept = sum(_replayable(config, sizes, stage) for stage in range(config.stages + 1))
    if any(device != "cpu" for device in config.devices):
        return config.replicas * kept
    states = kept + sum(map(sum, zip(sizes.params, sizes.params, sizes.moments, strict=True)))
    states += rounded_bytes(config, sum(sizes.params))
    vocabulary = config.model.vocabulary or tokenizer_of(config.data).vocabulary
    logits = 4 * config.batch * config.model.context * vocabulary
    return config.replicas * states + 2 * logits


def check_fits(config: Config, at_once: int = 1, instead: Callable[[], str] | None = None) -> None:
    """Raise BadInput if this machine has not the memory for so many of these runs ``at_once``.
    ``instead``: tells what to do then; None: to lower what a new run is free to."""
    wanted, free = at_once * least_bytes(config), available()
    if wanted > free:
        runs = f" for {at_once} runs at once" if at_once > 1 else ""
        kept, exact = replays(config.recovery), spec_of(config.recovery).exact
        lower = (
            f"{'give recovery.log_memory=0, or ' if kept and not exact else ''}lower "
            f"{'--workers, ' if at_once > 1 else ''}"
            f"{'recovery.log_memory, ' if kept and exact else ''}batch, model.context or "
            "model.width, or spread the stages over machines by checkfree swarm"
        )
        raise BadInput(
            f"at least {render_bytes(wanted)} of memory{runs}, and {render_bytes(free)} are "
            f"available: {lower if instead is None else instead()}"
        )


def instead_of_resuming(config: Config, run: Path) -> str:
    """What to do where the memory lacks to go on with that run, of which only places may be others:
    its logs may be on a disk, if that is enough. Without them it is another run."""
    recovery, words = config.recovery, []
    on_disk = replace(config, recovery=replace(recovery, log_path="."))
    if least_bytes(on_disk) <= available():
        words.append("give recovery.log_path=FOLDER, a local disk for its logs")
    less = "batch=…"
    if replays(recovery) and least_bytes(without_logs(config)) <= available():
        less = "recovery=none" if spec_of(recovery).exact else "recovery.log_memory=0"
    at = shlex.quote(str(run))
    again = f"checkfree train {shlex.quote(str(run / CONFIG))} init={at} {less} out=NEW"
    words.append(f"spread its stages over machines by checkfree swarm lead --resume {at}")
    return f"{', '.join(words)}, or begin one that takes less from its state: {again}"


def without_logs(config: Config) -> Config:
    """As much of it as keeps nothing for replays: a run trained again from its records."""
    return replace(config, recovery=replace(config.recovery, log_memory=0))


def within_memory(config: Config) -> Config:
    """The configuration of a new run; one of ``auto`` without logs and copies for replays, if it
    finds by itself how much they take and this machine has the memory only without them."""
    recovery = config.recovery
    if spec_of(recovery).exact or recovery.log_memory != AUTO or not replays(recovery):
        return config
    without = without_logs(config)
    return without if least_bytes(config) > available() >= least_bytes(without) else config


def room_for(config: Config, available: int) -> int:
    """Seats that so many bytes are good for."""
    return max(0, int((1 - SPARED) * available) - FIRST_BYTES) // seat_bytes(config)


def available(read: Callable[[Path], str] = Path.read_text) -> int:
    """Bytes that new processes could have, within the limits of a container if we are in one."""
    return min(
        _of_machine(read),
        *(
            left
            for group in _groups(read)
            for left in (
                *_of_group(read, group, "max", "current", "inactive_file"),
                *_of_group(read, group, "limit_in_bytes", "usage_in_bytes", "total_inactive_file"),
            )
        ),
        _UNLIMITED,
    )


def _groups(read: Callable[[Path], str]) -> Iterator[Path]:
    """The control groups that we are in, and those that these are in: a service's limit stands
    some levels down, and a container sees its own as the root."""
    yield from (_GROUPS, _GROUPS / "memory")
    try:
        lines = read(_OWN_GROUPS).splitlines()
    except OSError:
        return
    for line in lines:  # as in 0::/system.slice/train.service; of version 1, 7:memory:/…
        _, _, named = line.partition(":")
        kind, _, path = named.partition(":")
        if kind in ("", "memory"):
            within = PurePosixPath(path.lstrip("/"))
            for group in (within, *within.parents[:-1]):
                yield _GROUPS / kind / group


def _of_machine(read: Callable[[Path], str]) -> int:
    try:
        lines = read(Path("/proc/meminfo")).splitlines()
        return next(1024 * int(x.split()[1]) for x in lines if x.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _of_group(
    read: Callable[[Path], str], group: Path, limit: str, used: str, idle: str
) -> list[int]:
    """What a control group still allows, files that it could drop included; nothing if it sets no
    limit."""
    try:
        most = int(read(group / f"memory.{limit}"))
        now = int(read(group / f"memory.{used}"))
        lines = (line.split() for line in read(group / "memory.stat").splitlines())
        cached = next((int(words[1]) for words in lines if words[0] == idle), 0)
    except (OSError, ValueError, IndexError):
        return []  # "max", or another kind of machine
    return [] if most >= _UNLIMITED else [max(0, most - now + cached)]

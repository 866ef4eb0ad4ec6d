"""What the stages of a run move out of memory between forward and backward, by what its own machine
computes and carries in a second."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, lru_cache, partial
from pathlib import Path
from tempfile import TemporaryFile

from checkfree.config.stash import OFFLOAD, stash_of
from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.pipeline.stash import Moves, worth_moving
from checkfree.runtime.swarm.told import tell
from checkfree.session.routing import profile_of
from checkfree.session.sizes import own_sizes
from checkfree.simulator.fleet import FLEETS
from checkfree.simulator.moving import Moving
from checkfree.simulator.sizes import Sizes, pace_of
from checkfree.stage.offload import Offloading

USUAL = "/var/tmp"
"""Where no ``stash_path`` is given: what stands there survives a restart, so it is a disk, where
``/tmp`` may be memory itself."""


ALIKE = 8
"""Schedules of a seat that are remembered: an iteration has that of the last one, as long as nobody
is lost, and what is chosen for long ones takes as long as an op."""


def stash_folder(config: Config) -> Path:
    """Where stages that are not on a GPU offload to."""
    return Path(os.path.expanduser(config.stash_path or USUAL))


def moving_of(config: Config, sizes: Sizes | None = None) -> Moving:
    """Of a built-in model, on the machine that trains: as it was measured, if ``fleet.profile``
    says so, else a GPU or a CPU as the fleets ``machine`` and ``thread`` have them; but for what
    ``fleet.flops`` and ``fleet.offload`` say. ``sizes``: the model's own, if they are known."""
    gpu = any(device != "cpu" for device in config.devices)
    fleet, own = FLEETS["machine" if gpu else "thread"], sizes or own_sizes(config)
    fleet = replace(fleet, flops=config.fleet.flops or fleet.flops)
    bandwidth = config.fleet.offload or fleet.offload
    return Moving(own, pace_of(own, fleet, profile_of(config)), bandwidth, config.stash_room)


def offloadings(config: Config, *, measured: bool) -> Mapping[int, Offloading]:
    """Of each stage that offloads, how it moves its stash; a run's say the same once. ``measured``:
    the model is a built-in one, so it is known what stages hold and compute; else all is moved that
    waits long enough."""
    stages = [stage for stage, way in enumerate(stash_of(config)) if way == OFFLOAD]
    if not stages:
        return {}
    folder, say = stash_folder(config), cache(tell)
    if not measured:
        return dict.fromkeys(
            stages, Offloading(folder, say, lambda o: Moves(frozenset(worth_moving(o))))
        )
    moving = moving_of(config)
    return {
        stage: Offloading(folder, say, lru_cache(ALIKE)(partial(moving.chosen, stage)))
        for stage in stages
    }


def check_stash_disk(config: Config) -> None:
    """Raise BadInput if what is offloaded would go to a folder that can't be written to here."""
    on_disk = any(device == "cpu" for device in config.devices)
    if OFFLOAD not in stash_of(config) or not on_disk:
        return
    folder = stash_folder(config)
    try:
        with TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise BadInput(
            f"stash_path={folder}: {why} (on this machine): give a folder on a local disk, or "
            "stash=recompute, which needs none"
        ) from None

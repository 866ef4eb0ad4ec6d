"""The disk that what seats have sent is written to, by ``recovery.log_path``: whether this machine
has it, and who makes the logs there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile

from checkfree.core.config import Config, RecoveryConfig
from checkfree.core.errors import BadInput
from checkfree.core.units import render_bytes
from checkfree.recovery.options import AUTO
from checkfree.recovery.registry import replays
from checkfree.runtime.disk_log import DiskLog, most_bytes
from checkfree.runtime.swarm.told import tell
from checkfree.session.sizes import log_bytes, own_sizes
from checkfree.worker.log import Log, SentLog

OTHER = "a folder on a local disk, or null, which keeps in memory what seats have sent"
LESS = "lower recovery.log_memory"
IN_MEMORY = "null"
"""As a node says it that has no folder for its logs."""


def log_folder(recovery: RecoveryConfig) -> Path | None:
    """Where logs are written to; None: nowhere."""
    path = recovery.log_path
    return Path(os.path.expanduser(path)) if path is not None and replays(recovery) else None


def log_maker(recovery: RecoveryConfig) -> Callable[[], Log]:
    """Of the logs of a run's seats in this process, which tell the same once."""
    folder, say = log_folder(recovery), cache(tell)
    return SentLog if folder is None else lambda: DiskLog(folder, say)


def logging_to(config: Config, folder: str | None) -> Config:
    """A run's configuration on a node that has its own ``folder`` for logs, or keeps them
    IN_MEMORY; None: that of the run."""
    if folder is None:
        return config
    path = None if folder == IN_MEMORY else folder
    return replace(config, recovery=replace(config.recovery, log_path=path))


def check_log_disk(
    config: Config,
    seats: int,
    *,
    measured: bool = True,
    give: str = "give",
    less: str = LESS,
) -> str:
    """What the logs of so many seats on this machine may take there, in words; "": nothing is
    written. ``measured``: the stages are of a built-in model, whose bytes are known. Raises
    BadInput if the folder is none that can be written to, or the disk has less than that; how to
    ``give`` another there, and how its logs become ``less`` ("": they can't), depends on what is to
    be done."""
    folder = log_folder(config.recovery)
    if folder is None:
        return ""
    try:
        with TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise BadInput(
            f"recovery.log_path={folder}: {why} (on this machine): {give} {OTHER}"
        ) from None
    given = config.recovery.log_memory
    log = log_bytes(config, own_sizes(config)) if measured else 0 if given == AUTO else given
    wanted = seats * most_bytes(log)
    told = f"{render_bytes(wanted)} for the logs of {seats} seats, {render_bytes(free)} free"
    if wanted > free:
        ways = ["make room", f"{give} a folder on a larger disk", *filter(None, [less])]
        raise BadInput(f"recovery.log_path={folder}: {told}: {', '.join(ways[:-1])}, or {ways[-1]}")
    return f"{told} in {folder}"

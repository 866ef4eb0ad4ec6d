"""How much memory new processes could have, and how many seats that is good for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from checkfree.build.sizes import own_sizes
from checkfree.config import Config

FORK_BYTES = 100 << 20
"""What a further seat takes beside the stage, measured: its own pages of what forks share."""
DAEMON_BYTES = 65 << 20
"""What its libp2p daemon takes."""
FIRST_BYTES = 300 << 20
"""What the process takes that they are forks of: torch and hivemind, mostly."""
SPARED = 0.1
"""Share of what is available that is left alone."""

_GROUP = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60  # cgroups of version 1 write a number about as large


def seat_bytes(config: Config) -> int:
    """Of one seat: weights twice (gradients), moments, buffers, and its processes. Activations
    come on top, and depend on the schedule."""
    sizes = own_sizes(config)
    largest = max(
        2 * params + moments + buffers
        for params, moments, buffers in zip(sizes.params, sizes.moments, sizes.buffers, strict=True)
    )
    return largest + FORK_BYTES + DAEMON_BYTES


def room_for(config: Config, available: int) -> int:
    """Seats that so many bytes are good for."""
    return max(0, int((1 - SPARED) * available) - FIRST_BYTES) // seat_bytes(config)


def available(read: Callable[[Path], str] = Path.read_text) -> int:
    """Bytes that new processes could have, within the limits of a container if we are in one."""
    return min(
        _of_machine(read),
        *_of_group(read, "memory.max", "memory.current", "memory.stat", "inactive_file"),
        *_of_group(
            read,
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
        _UNLIMITED,
    )


def _of_machine(read: Callable[[Path], str]) -> int:
    try:
        lines = read(Path("/proc/meminfo")).splitlines()
        return next(1024 * int(x.split()[1]) for x in lines if x.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _of_group(
    read: Callable[[Path], str], limit: str, used: str, stat: str, idle: str
) -> list[int]:
    """What a control group still allows, files that it could drop included; nothing if it sets no
    limit."""
    try:
        most = int(read(_GROUP / limit))
        now = int(read(_GROUP / used))
        lines = (line.split() for line in read(_GROUP / stat).splitlines())
        cached = next((int(words[1]) for words in lines if words[0] == idle), 0)
    except (OSError, ValueError, IndexError):
        return []  # "max", or another kind of machine
    return [] if most >= _UNLIMITED else [max(0, most - now + cached)]

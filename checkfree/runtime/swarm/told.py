"""What the processes of a swarm say while they run: a line each, with the time in UTC, since those
who read it sit at several machines."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from checkfree.core.errors import BadInput, RunFailed
from checkfree.core.units import render_utc


def tell(text: str) -> None:
    """On stderr. A terminal that went away takes no training with it."""
    with suppress(OSError, ValueError):
        print(f"checkfree: {render_utc(time.time())} {text}", file=sys.stderr, flush=True)


def render_error(error: Exception) -> str:
    """Ours as they are; of others which it is."""
    if isinstance(error, (BadInput, RunFailed)):
        return str(error)
    return f"{type(error).__name__}: {error}"


def waited(event: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """An event of waiting as it is now, at its own machine; None: nothing is waited for."""
    if event is None:
        return None
    return {**event, "seconds": time.monotonic() - event["since"]}


def render_waiting(event: Mapping[str, Any]) -> str:
    """Which seats are vacant, and for what is waited how long."""
    vacant, stages, taken = event["vacant"], event["stages"], event["seats"] - len(event["vacant"])
    told = f"vacant: {', '.join(vacant)}" if vacant else "every seat is taken"
    if stages:
        since = f" since {event['seconds']:.0f} s" if event["seconds"] >= 1 else ""
        told += f"; nobody has stage {', '.join(map(str, stages))}: it waits{since}"
    if vacant:
        nodes = f"{event['nodes']} node{'s' * (event['nodes'] != 1)}"
        told += f"; {taken} of {event['seats']} seats on {nodes}"
    return told + (f"; {event['spares']} stand by" if event["spares"] else "")

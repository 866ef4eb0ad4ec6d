"""What the processes of a swarm say while they run: a line each, with the time in UTC, since those
who read it sit at several machines."""

from __future__ import annotations

import sys
import time
from contextlib import suppress

from checkfree.units import render_utc


def tell(text: str) -> None:
    """On stderr. A terminal that went away takes no training with it."""
    with suppress(OSError, ValueError):
        print(f"checkfree: {render_utc(time.time())} {text}", file=sys.stderr, flush=True)

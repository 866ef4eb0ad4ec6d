"""Lines that say how far replays are, for those who see no panel."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from checkfree.core.live import ReplayProgress, render_replays

EVERY = 5.0
"""Seconds between two lines. Of a replay that takes less only the end is told."""


class ReplayLines:
    """A brake on lines: called with what is replayed, however often, it calls ``say`` now and
    then."""

    def __init__(self, say: Callable[[str], None], now: Callable[[], float] = time.monotonic):
        self._say, self._now = say, now
        self._said_at: float | None = None

    def __call__(self, replays: Sequence[ReplayProgress]) -> None:
        now = self._now()
        if not replays:
            self._said_at = None
        elif self._said_at is None:
            self._said_at = now
        elif now - self._said_at >= EVERY:
            self._said_at = now
            self._say(render_replays(replays))

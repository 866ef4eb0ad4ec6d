"""By when those who leave will be gone, and whether an iteration can end before that. Pure."""

from __future__ import annotations

from checkfree.core.ops import Address

Life = tuple[Address, int]

MARGIN = 3.0
"""Seconds that it takes to go once nobody works: to hand on what the iteration made, or, where it
was broken off, to be let go."""


class Deadlines:
    """Of lives that have asked to leave, on one clock."""

    def __init__(self) -> None:
        self._at: dict[Life, float] = {}

    def asked(self, life: Life, seconds: object, now: float) -> None:
        """It will be killed in so many seconds; it asks again and again, and the first time counts.
        What is no number of seconds tells nothing."""
        if isinstance(seconds, float | int) and not isinstance(seconds, bool) and seconds >= 0:
            self._at.setdefault(life, now + seconds)

    def late(self, now: float, remains: float) -> list[Life]:
        """For whom an iteration that takes so many more seconds takes too long: each once."""
        found = [life for life, at in self._at.items() if now + remains + MARGIN > at]
        for life in found:
            self._at[life] = float("inf")
        return found

    def gone(self, lives: dict[Address, int]) -> None:
        """Those of earlier lives need not be told of any more."""
        self._at = {
            (seat, life): at for (seat, life), at in self._at.items() if lives.get(seat) == life
        }

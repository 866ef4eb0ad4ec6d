"""How long it takes to hear from a peer, and so how long its silence has to be. Pure."""

from __future__ import annotations

TRIPS = 6.0
"""Round trips that are granted beside the patience. What is lost on the way is sent again after
about two, and after four once more (RFC 6298), and a queue may fill up meanwhile."""
FORGET = 0.9
"""Of the longest trip so far, what is left of it after each that was shorter: at four a second a
burst is forgotten within ten seconds."""


class RoundTrip:
    """Seconds there and back; the longest of late counts, for a mean would be late to grow."""

    def __init__(self) -> None:
        self.longest = 0.0

    def measured(self, seconds: float) -> None:
        """One more."""
        self.longest = max(seconds, FORGET * self.longest)

    def grants(self) -> float:
        """Seconds of silence beside the patience."""
        return TRIPS * self.longest

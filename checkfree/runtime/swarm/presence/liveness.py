"""Who has been silent for too long: the slow way to notice a loss, for whoever hangs.

A killed process is noticed by the end of its stream within milliseconds. One that is stopped, or
behind a cut link, ends nothing: it only falls silent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Who = TypeVar("Who")
"""A peer, or the lead as its launcher knows it."""
PATIENCE = 1.5
"""Seconds of silence after which a peer counts as lost; the one knob."""
GRACE = 15.0
"""Seconds that whoever fell silent gets to come back with its state before anything inexact stands
in for it. A line that was cut for eight is found to be whole within four more."""
RETURN = 2.0
"""Seconds that whoever's streams ended gets for the same at most, unless the patience is large (see
``wait_for_return``)."""
LOADED = 0.1
"""Of a patience that is large because machines are slow, the share that counts there."""
RELAY = 8 << 30
"""Bytes that the lead passes on for a pair that can't reach each other."""
TRIPS = 6.0
"""Round trips that are granted beside the patience. What is lost on the way is sent again after
about two, and after four once more (RFC 6298), and a queue may fill up meanwhile."""
FORGET = 0.9
"""Of the longest trip so far, what is left of it after each that was shorter: at four a second a
burst is forgotten within ten seconds."""
_BEATS, _SLOWEST = 6, 0.5


def beat_every(patience: float) -> float:
    """Seconds between two pulses: several have to be missed."""
    return min(patience / _BEATS, _SLOWEST)


def wait_for_return(patience: float, granted: float) -> float:
    """Seconds for whoever's streams ended. A connection may have been reset, or its libp2p daemon
    have died: then it is back in 0.6 s on a near machine, and for the dead it is what they cost.
    Half of the patience leaves room for two of them, one after the other, in what a loss may cost.
    ``granted``: for the way to it, which is made anew in as many round trips, however far it is."""
    return max(min(RETURN, patience / 2), LOADED * patience) + granted


class RoundTrip:
    """Seconds that it takes to hear from a peer, there and back, and so how long its silence has to
    be. The longest of late counts, for a mean would be late to grow."""

    def __init__(self) -> None:
        self.longest = 0.0

    def measured(self, seconds: float) -> None:
        """One more."""
        self.longest = max(seconds, FORGET * self.longest)

    def grants(self) -> float:
        """Seconds of silence beside the patience."""
        return TRIPS * self.longest


def no_more(who: object) -> float:
    """Nobody is granted any more than the patience."""
    return 0.0


class FailureDetector:
    """Judges by the times at which peers were last heard. Time that we ourselves were away, as
    when a laptop sleeps, is nobody's silence. ``granted``: seconds more for a peer that is far."""

    def __init__(self, patience: float, now: float, granted: Callable[[Any], float] = no_more):
        self._patience, self._granted = patience, granted
        self._looked = self._back = now

    def silent(self, heard: Mapping[Who, float], now: float) -> list[Who]:
        """Those to give up. Call it several times within the patience."""
        if now - self._looked > self._patience / 2:
            self._back = now
        self._looked = now
        since = {peer: max(at, self._back) for peer, at in heard.items()}
        return [
            peer for peer, at in since.items() if now - at > self._patience + self._granted(peer)
        ]


async def detect_failures(
    patience: float,
    heard: Callable[[], Mapping[Who, float]],
    tell: Callable[[Who], None],
    granted: Callable[[Any], float] = no_more,
) -> None:
    """``tell`` of whoever fell silent, again at every look until it is no longer ``heard``."""
    every = beat_every(patience) / 2
    # A peer is given up a look early: the next one would be too late.
    detector = FailureDetector(patience - every, time.monotonic(), granted)
    while True:
        await asyncio.sleep(every)
        for peer in detector.silent(heard(), time.monotonic()):
            tell(peer)

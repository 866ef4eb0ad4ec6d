"""Ctrl-C, and the SIGTERM that a node gets before it is taken away: both are a KeyboardInterrupt,
but never in the middle of an import.

Importing torch takes seconds, and what is raised while it does may be swallowed there, or leave a
module half made. So the interrupt waits until the import is over; another one in the meantime
ends the process at once: it has nothing yet that could be lost.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

TOLD = "checkfree: interrupted"
EXIT_CODE = 130
ASK_AGAIN = 0.01
"""Seconds after which we look whether the import is over."""

_waiting: list[int] = []
"""The signal that waits, if one does."""


def heed_interrupts() -> None:
    """From now on, in the main thread. Whoever ignores Ctrl-C, as what a shell runs in the
    background does, goes on to; what came while we were exec'd comes now."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    sys.unraisablehook = _swallowed
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))


def hold_interrupts() -> None:
    """Until the program that takes our place by exec heeds them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    forget_interrupts(signal.raise_signal)


def forget_interrupts(told: Callable[[int], None] = lambda number: None) -> None:
    """None waits any more; ``told`` is called with one that did."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    while _waiting:
        told(_waiting.pop())


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not _imports(frame):
        raise KeyboardInterrupt
    if _waiting:
        os.write(2, f"{TOLD}\n".encode())
        os._exit(EXIT_CODE)
    _wait(number)


def _wait(number: int) -> None:
    _waiting.append(number)
    signal.signal(signal.SIGALRM, _look_again)
    signal.setitimer(signal.ITIMER_REAL, ASK_AGAIN)


def _swallowed(what: sys.UnraisableHookArgs) -> None:
    """An interrupt that came where Python raises nothing, as in what it calls around a fork, comes
    again."""
    if isinstance(what.exc_value, KeyboardInterrupt):
        _wait(signal.SIGINT)
    else:
        sys.__unraisablehook__(what)


def _look_again(number: int, frame: FrameType | None) -> None:
    """By now another handler may have taken our place."""
    if _imports(frame):
        signal.setitimer(signal.ITIMER_REAL, ASK_AGAIN)
    else:
        forget_interrupts(signal.raise_signal)


def _imports(frame: FrameType | None) -> bool:
    """Something below is being imported."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False

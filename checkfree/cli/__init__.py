"""The commands, one a file. Exit codes: 0 done, 1 the run failed, 2 refused, 75 start me again, 130
interrupted: docs/spot-fleet.md has the table."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from checkfree.cli.interrupts import EXIT_CODE, TOLD, forget_interrupts, heed_interrupts
from checkfree.cli.streams import guarded_streams

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Nothing is imported before Ctrl-C is heeded."""
    with guarded_streams():
        try:
            heed_interrupts()
            from checkfree.cli.entry import run

            return run(argv)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # once more changes nothing
            print(TOLD, file=sys.stderr)
            return EXIT_CODE
        finally:
            forget_interrupts()

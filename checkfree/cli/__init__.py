"""The commands, one a file. Exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted."""

from checkfree.cli.entry import main

__all__ = ["main"]

"""The two ways a run can end badly that are not bugs. The command line turns them into one line."""

from __future__ import annotations


class BadInput(ValueError):
    """The user's input is wrong. One line: what, got, expected, and the mend. Exit code 2."""


class RunFailed(RuntimeError):
    """The run cannot go on. One line that says why and what would have helped. Exit code 1."""

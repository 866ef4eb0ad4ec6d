"""A token that is given on the command line, and who can read command lines: everybody."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from checkfree.runtime.swarm.joining.invitation import TOKEN_VARIABLE


def hide(token: str | None) -> None:
    """Begin this command anew, as the same process, with its token where only its own user can
    read it: in the environment. ``ps`` shows it no more."""
    words = without(sys.orig_argv[1:], token)
    if token is not None and words != sys.orig_argv[1:]:
        told = {**os.environ, TOKEN_VARIABLE: token}
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *words], told)


def without(words: Sequence[str], token: str | None) -> list[str]:
    """A command line without an option of that value."""
    kept: list[str] = []
    for word in words:
        if token and word == token and kept and kept[-1].startswith("--"):
            kept.pop()
        elif not (token and word.startswith("--") and word.endswith(f"={token}")):
            kept.append(word)
    return kept

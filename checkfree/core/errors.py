"""The two ways a run can end badly that are not bugs, and what is said of a value that is none of
those that can be. The command line turns them into one line."""

from __future__ import annotations

LONGEST = 1000
"""Letters of what is told. What is wrong stands at its beginning, the mend at its end."""


def one_line(text: str) -> str:
    """As it can be told whatever a value, a file or a peer has brought into it: on one line, with
    nothing in it that a terminal would obey, and of a length that can be read."""
    line = " ".join(part for part in text.splitlines() if part)
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    if len(shown) <= LONGEST:
        return shown
    return f"{shown[: LONGEST // 2]} … {shown[-LONGEST // 3 :]}"


class BadInput(ValueError):
    """The user's input is wrong. One line: what, got, expected, and the mend. Exit code 2."""

    def __init__(self, told: str = ""):
        super().__init__(one_line(told))


class RunFailed(RuntimeError):
    """The run cannot go on. One line that says why and what would have helped. Exit code 1."""

    def __init__(self, told: str = ""):
        super().__init__(one_line(told))


def one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise BadInput unless ``value`` is among ``choices``."""
    if value not in choices:
        raise BadInput(f"{key}={value}: expected one of {', '.join(choices)}")


def at_least(key: str, value: int, least: int) -> None:
    """Raise BadInput below ``least``."""
    if value < least:
        raise BadInput(f"{key}={value}: expected a whole number of at least {least}")


def within(key: str, value: int, least: int, most: int) -> None:
    """Raise BadInput below ``least`` and above ``most``."""
    at_least(key, value, least)
    if value > most:
        raise BadInput(f"{key}={value}: expected at most {most}")


_MAKE_ROOM = "make room, then go on"
_ROOM_FIRST = "make room, then begin again"


def cannot_write(path: object, error: OSError) -> RunFailed:
    """For a disk that takes no more: what was written before it stays good."""
    return RunFailed(
        f"cannot write {path}: {error.strerror or error}; all that was written before is good: "
        f"{_MAKE_ROOM}"
    )


TOO_FAR = "lower optimizer.lr or set optimizer.clip"
"""How the reason ends of a run whose loss is no finite number any more."""


def with_command(reason: str, command: str) -> str:
    """Why a run ended; if it was for want of room, with the command that goes on; "": it has not
    begun, so there is none."""
    if not reason.endswith(_MAKE_ROOM):
        return reason
    return f"{reason}: {command}" if command else f"{reason.removesuffix(_MAKE_ROOM)}{_ROOM_FIRST}"

"""What a receiver takes, and how it says what it does not: checks that every reader shares."""

from __future__ import annotations

import reprlib
from collections.abc import Set
from dataclasses import dataclass
from typing import Any


class Malformed(ValueError):
    """Bytes that are no message, or one beyond the limits. One line: what, got, expected."""


DTYPES = (
    *("float64", "float32", "float16", "bfloat16"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
    *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool"),
    "complex64",
)
"""Of tensors: what messages can carry, and files of states. Those of a byte or of whole numbers are
of constants, which never train."""


@dataclass(frozen=True)
class Limits:
    """What a receiver is ready to take; checked before memory is taken for it."""

    max_message_bytes: int = 2**31
    """Of one message, header and tensors together."""
    max_header_bytes: int = 2**22
    """Enough for the schedule of 64 stages with 512 microbatches."""
    max_values: int = 2**18
    """Numbers, names and ops in a header: each costs its reader more than it costs the wire."""
    max_tensors: int = 2**14
    max_dims: int = 8
    dtypes: frozenset[str] = frozenset(DTYPES)


def check_keys(plain: Any, names: Set[str]) -> None:
    """Raise Malformed unless ``plain`` is an object with exactly these keys."""
    if type(plain) is not dict or plain.keys() != names:
        raise expected(f"an object with the keys {', '.join(sorted(names))}", plain)


def expected(what: str, got: object) -> Malformed:
    """The error of a value that is none of ``what``; however long it is, one short line."""
    return Malformed(f"expected {what}, got {reprlib.repr(got)}")


def is_count(plain: Any) -> bool:
    """A whole number from 0 that 63 bits hold."""
    return type(plain) is int and 0 <= plain < 2**63


def is_text(plain: Any) -> bool:
    """A string that can be written down: JSON can spell halves of characters that can't."""
    if type(plain) is not str:
        return False
    return plain.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in plain)

"""Helpers for seconds, bytes and seeds. No other room of odds and ends exists."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime, timezone


def derive(seed: int, purpose: str, *parts: int) -> int:
    """A 63-bit seed for one purpose: every random draw of a run comes from one of these.

    Equal arguments give equal seeds on every machine; any other argument an unrelated one.
    """
    text = "/".join([str(seed), purpose, *map(str, parts)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def render_bytes(count: float) -> str:
    """``1536`` -> ``'1.5 KiB'``"""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def parse_bytes(text: str) -> int:
    """``'1.5 GiB'``, ``'80GB'`` or ``'1048576'`` -> bytes. Raises ValueError for anything else,
    and for less than a byte."""
    number_and_unit = r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*(?:([KMGT]?)(i?)B)?\s*"
    found = re.fullmatch(number_and_unit, text, re.IGNORECASE | re.ASCII)
    if found is None:
        raise ValueError(f"{text!r} is no number of bytes, as in 64GiB")
    number, prefix, binary = found.groups()
    base = 1024 if binary else 1000
    count = int(float(number) * base ** " KMGT".index((prefix or " ").upper()))
    if count < 1:
        raise ValueError(f"{text!r} is less than a byte")
    return count


def render_seconds(seconds: float) -> str:
    """``95.0`` -> ``'1 min 35 s'``; below a second in milliseconds."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def render_utc(at: float) -> str:
    """A time in seconds since 1970, to the second (ISO 8601)."""
    return f"{datetime.fromtimestamp(at, timezone.utc):%Y-%m-%dT%H:%M:%SZ}"

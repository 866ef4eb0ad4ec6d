"""Formats of single links, as a configuration has them: ``0.0>1.0=int4``, one way."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from checkfree.core.ops import Address

AUTO = "auto"
"""The word before those that were chosen by what links and seats can carry; alone: they will be."""

Way = tuple[Address, Address]
"""From one seat to another."""


def parse_links(words: Collection[str]) -> dict[Way, str]:
    """The format of each; ``auto`` is none of them. Raises ValueError, with the word."""
    found: dict[Way, str] = {}
    for word in words:
        if word == AUTO:
            continue
        way, equals, how = word.partition("=")
        ends = way.split(">")
        if not equals or len(ends) != 2:
            raise ValueError(word)
        one, other = map(Address.parse, ends)
        if (one, other) in found:
            raise ValueError(word)
        found[one, other] = how
    return found


def render_links(links: Mapping[Way, str]) -> tuple[str, ...]:
    """Inverse of ``parse_links``, in order."""
    return tuple(f"{one}>{other}={how}" for (one, other), how in sorted(links.items()))

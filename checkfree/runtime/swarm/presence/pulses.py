"""What all peers of a run together say in their pulses: sums of what each has counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

Counts = Mapping[str, int]


def all_sent(
    pulses: Iterable[Mapping[str, Any]], messages: Counts, nbytes: Counts
) -> tuple[dict[str, int], dict[str, int]]:
    """Messages and bytes by kind, with our own."""
    total, total_bytes = Counter(messages), Counter(nbytes)
    for pulse in pulses:
        total.update(pulse["pulse"][0])
        total_bytes.update(pulse["pulse"][1])
    return dict(total), dict(total_bytes)


def all_refused(pulses: Iterable[Mapping[str, Any]], refused: Counts) -> dict[str, int]:
    """What was dropped, by what was wrong with it, with what we dropped."""
    total = Counter(refused)
    for pulse in pulses:
        total.update(pulse["pulse"][2])
    return dict(total)

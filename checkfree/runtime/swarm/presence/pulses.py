"""What the peers of a run say in their pulses: what each has counted, and sums of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, TypeGuard

from checkfree.core.ops import Address

Counts = Mapping[str, int]
MESSAGES, BYTES, REFUSED = range(3)
UNUSABLE = "unusable"
"""Messages of a member that name no op of the plan, or tensors of another shape."""


def pulse_of(messages: Counts, nbytes: Counts, refused: Counts, unusable: int) -> list[Any]:
    """What one peer has counted so far; ``unusable``: messages that its worker dropped."""
    dropped = {**refused, UNUSABLE: unusable} if unusable else dict(refused)
    return [dict(messages), dict(nbytes), dropped]


def all_sent(
    pulses: Iterable[Mapping[str, Any]], messages: Counts, nbytes: Counts
) -> tuple[dict[str, int], dict[str, int]]:
    """Messages and bytes by kind, with our own."""
    found = list(pulses)
    return _sum(found, MESSAGES, messages), _sum(found, BYTES, nbytes)


def all_refused(pulses: Iterable[Mapping[str, Any]], refused: Counts) -> dict[str, int]:
    """What was dropped, by what was wrong with it, with what we dropped."""
    return _sum(pulses, REFUSED, refused)


class Spent(NamedTuple):
    """For how long a peer has computed, has taken its line to each seat, and has had something on
    its way there, in seconds so far."""

    busy: float | None
    lines: dict[Address, float]
    ways: dict[Address, float]


def seconds_of(pulse: Mapping[str, Any], seats: Collection[Address]) -> Spent:
    """Of these seats; whoever tells rubbish has told nothing."""
    busy = pulse.get("busy")
    lines, ways = (_by_seat(pulse.get(key), seats) for key in ("lines", "ways"))
    return Spent(busy if _is_duration(busy) else None, lines, ways)


def _by_seat(told: Any, seats: Collection[Address]) -> dict[Address, float]:
    found = {seat: told.get(str(seat)) for seat in seats} if isinstance(told, dict) else {}
    return {seat: seconds for seat, seconds in found.items() if _is_duration(seconds)}


def _is_duration(told: Any) -> TypeGuard[float]:
    """JSON from Python may be a NaN, with which nothing can be compared."""
    return type(told) is float and 0.0 <= told < float("inf")


def render_dropped(dropped: Counts) -> str:
    """In one line; "" if there is nothing to tell."""
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(dropped.items()) if count)
    return f"dropped: {told}" if told else ""


def _sum(pulses: Iterable[Mapping[str, Any]], place: int, ours: Counts) -> dict[str, int]:
    """Whoever tells rubbish has counted nothing."""
    total = Counter(ours)
    for pulse in pulses:
        told = pulse.get("pulse")
        counts = told[place] if isinstance(told, list) and len(told) > place else None
        if isinstance(counts, dict) and all(type(count) is int for count in counts.values()):
            total.update(counts)
    return dict(total)

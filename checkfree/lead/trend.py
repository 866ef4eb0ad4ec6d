"""How fast the loss falls: two running means of it, one slow and one fast."""

from __future__ import annotations

Trend = tuple[float, ...]
"""Losses seen, fast mean, slow mean; empty before the first."""

FAST, SLOW = 10, 50
"""Iterations that the means reach back."""


def follow(trend: Trend, loss: float) -> Trend:
    """With one more committed loss."""
    if not trend:
        return (1.0, loss, loss)
    count, fast, slow = trend
    return (count + 1, fast + (loss - fast) / FAST, slow + (loss - slow) / SLOW)


def falling(trend: Trend) -> float | None:
    """Nats per iteration; None before the slow mean says anything."""
    if not trend or trend[0] < SLOW:
        return None
    return (trend[2] - trend[1]) / (SLOW - FAST)

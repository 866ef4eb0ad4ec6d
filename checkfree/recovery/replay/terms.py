"""How much is kept for replays, and how often."""

from __future__ import annotations

from dataclasses import dataclass

from checkfree.recovery.options import AUTO, ReplayOptions


@dataclass(frozen=True)
class ReplayTerms:
    """``lag``: iterations from the commit that a wave is of until it counts, in which its copies
    travel. ``every``: iterations between two waves, None: as ``log_memory`` asks for, the bytes
    that a seat's log may have; if that is None too, as often as waves count. ``tolerance``: see
    ``RecoveryConfig``; None: as suits what computes."""

    lag: int = 2
    every: int | None = None
    log_memory: int | None = None
    copies: int = 1
    tolerance: float | None = None

    @classmethod
    def of(cls, options: ReplayOptions) -> ReplayTerms:
        """As configured."""
        lag, log = options.wave_lag or cls.lag, options.log_memory
        tolerance = None if options.tolerance == AUTO else float(options.tolerance)
        log = None if log == AUTO else log
        return cls(lag, options.wave_every, log, options.copies, tolerance)

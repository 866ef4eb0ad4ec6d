"""Which failures a run is due: a trace drawn whole beforehand, or rehearsed on a fleet's clock."""

from __future__ import annotations

from collections.abc import Collection

from checkfree.core.config import Config
from checkfree.core.ops import Address
from checkfree.failures import CLOCK, STOP, Trace, sample, seats_hit, strikes
from checkfree.session.rehearsal import rehearse

SAMPLED_TICKS = 4
"""Ticks of a trace that are drawn ahead, per iteration: rollbacks make more than one."""


class DueFailures:
    """The failures of a configuration. ``trace`` has those of the first ticks; on a clock
    (semantics 9) all of them, and the run is rehearsed for it. Raises BadInput."""

    def __init__(self, config: Config):
        self._config, self._clock = config, config.failures.scenario == CLOCK
        self._ticks = SAMPLED_TICKS * config.iterations
        self.trace = rehearse(config).trace if self._clock else self._drawn(self._ticks)
        self._known = self.trace

    def struck(self, tick: int) -> Collection[Address]:
        """The seats that are hit at a tick. A run that outlasts the trace has another drawn, which
        is longer: that changes nothing of what it had (semantics 4)."""
        while tick >= self._ticks and not self._clock:
            self._ticks *= 2
            self._known = self._drawn(self._ticks)
        return self._hit(strikes(self._known, tick))

    def hung(self, tick: int) -> Collection[Address]:
        """Those of the seats ``struck`` that hang where processes can: they fall silent and end
        nothing. For what is trained that is a loss as any other; on a clock they only crash."""
        stops = tuple(f for f in self.trace if f.kind == STOP and not self._clock)
        return self._hit(strikes(stops, tick))

    @property
    def stages(self) -> frozenset[int]:
        """Those that are hit, as far as ``trace`` tells."""
        return frozenset(failure.stage for failure in self.trace)

    def _drawn(self, ticks: int) -> Trace:
        config = self._config
        size = {"stages": config.stages, "replicas": config.replicas}
        return sample(config.failures, seed=config.seed, ticks=ticks, **size)

    def _hit(self, failures: Trace) -> Collection[Address]:
        return seats_hit(failures, self._config.stages + 1, self._config.replicas)

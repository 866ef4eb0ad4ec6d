"""The clock of a simulated run, and the account of its seconds and bytes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from checkfree.simulator.iteration import Price


@dataclass
class CostLedger:
    """``now`` is the sum of all seconds: nothing passes that is not accounted for."""

    now: float = 0.0
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    bytes: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)

    def spend(self, kind: str, seconds: float) -> None:
        """Everybody waits for this."""
        self.seconds[kind] += seconds
        self.now += seconds

    def send(self, kind: str, name: str, count: int) -> None:
        """Bytes of one name of message."""
        if count:
            self.bytes[kind] += count
            self.messages[name] += count

    def iteration(self, price: Price, *, again: bool) -> None:
        """A committed iteration; ``again``: it makes up for one that was rolled back."""
        for kind, seconds in price.seconds.items():
            self.seconds["replay" if again else kind] += seconds
        self.now += price.total
        self.sent(price.bytes, again=again)

    def sent(self, counts: Mapping[str, int], *, again: bool) -> None:
        for name, count in counts.items():
            kind = "redundant" if name in ("KeepGradient", "KeepShadow") else "useful"
            self.send("replay" if again else kind, name, count)

    def aborted(self, price: Price, seconds: float) -> None:
        """An iteration of which so much was done when a stage was lost."""
        self.spend("replay", seconds)
        share = seconds / price.total if price.total else 0.0
        for name, count in price.bytes.items():
            self.send("replay", name, int(count * share))

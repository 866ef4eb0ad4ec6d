"""One small run, and seats that are killed in it at one delivery after the other."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from checkfree.core.ops import Address
from checkfree.lead import Phase
from checkfree.messages.control import Message
from checkfree.recovery.replay.plan import survives
from checkfree.recovery.replay.rule import LogAndReplay
from checkfree.recovery.replay.terms import ReplayTerms
from checkfree.recovery.wrappers import ReplicaFirst
from tests.tiny import Run, make

SEATS = tuple(Address(stage) for stage in range(4))
"""Stage 0, and three others."""

Kill = tuple[int, Collection[Address]]
"""After so many deliveries, these together."""


@dataclass
class Everywhere:
    """A run that loses seats as told, others come at once; ``terms`` say what it keeps. After an
    odd number of deliveries the lead hears of it before all else. ``said``: before each kill,
    whether ``survives`` promised that all would come back."""

    terms: ReplayTerms
    kills: tuple[Kill, ...] = ()

    def __post_init__(self) -> None:
        self.run = make(
            ReplicaFirst(LogAndReplay(self.terms)),
            stages=len(SEATS) - 1,
            terms={"iterations": 6, "microbatches": 2, "validation_every": 3},
        )
        self.said: list[bool] = []
        self.replaying: list[int] = []
        """Deliveries while a repair was under way."""
        self._left = list(self.kills)

    def play(self) -> Run:
        self.run.runtime.run(self._after)
        return self.run

    def _after(self, to: Address, message: Message) -> None:
        lead, runtime = self.run.lead, self.run.runtime
        if lead.phase is Phase.REBUILDING:
            self.replaying.append(runtime.delivered)
        if not self._left or runtime.delivered < self._left[0][0] or lead.phase is Phase.ENDED:
            return
        _, seats = self._left.pop(0)
        lost = {*seats, *lead.members.uninitialized}
        at_once = runtime.delivered % 2 == 1
        still = at_once or len(lost) == 1 or lead.phase is Phase.REBUILDING  # no wave counts first
        self.said.append(still and survives(lost, lead._lead_state.view()))
        lives = {seat: runtime.kill(seat) for seat in sorted(seats)}
        for seat, life in lives.items():
            runtime.join(seat, life + 1)
        if at_once:
            runtime._pending.rotate(2 * len(lives))

    def outcome(self, expected: Mapping[str, object]) -> str:
        """``same``, or ``refused`` where nothing else was promised; else what is wrong."""
        run = self.run
        if run.lead.done:
            return "same" if finished(run) == expected else "other bits"
        if not run.lead.failure:
            return f"stalls while {run.lead.phase}"
        return "refused" if not all(self.said) else f"refused: {run.lead.failure}"


def finished(run: Run) -> dict[str, object]:
    """What it put down at the end, and each loss."""
    weights = {n: data for n, data in run.files.data.items() if n.endswith(".safetensors")}
    return {"losses": run.losses(), **weights}

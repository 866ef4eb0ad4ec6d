"""One attempt at an iteration, as the lead sees it: who takes part, and what they answered."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from checkfree.core.ops import Address, Route, Transfer
from checkfree.core.records import IterationRecord
from checkfree.lead.progress import Terms
from checkfree.messages.control import Prepared, Ticket
from checkfree.recovery.shadow.ledger import Entry


@dataclass
class Transaction:
    """Nobody steps until everybody is prepared; those who are lost on the way are left out."""

    ticket: Ticket
    members: set[Address]
    routes: tuple[Route, ...]
    transfers: tuple[Transfer, ...] = ()
    prepared: dict[Address, Prepared] = field(default_factory=dict)
    stepped: set[Address] = field(default_factory=set)
    outcome: IterationRecord | None = None
    """What will be written down of it, once it is committed."""
    snapshot: tuple[Address, ...] = ()
    """Whose states go to the store then, in the background; none: nobody's."""
    shadows: tuple[Entry, ...] = ()
    """Those that had arrived when it was committed: such a snapshot has them."""

    def all_prepared(self) -> bool:
        return self.members <= self.prepared.keys()

    def all_stepped(self) -> bool:
        return self.members <= self.stepped

    def loss(self) -> float:
        """Mean over the microbatches, added in their order: neither delivery nor replicas show."""
        losses = sorted(pair for answer in self.prepared.values() for pair in answer.losses)
        return sum(loss for _, loss in losses) / len(self.routes)

    def gradient_norms(self) -> dict[int, float]:
        """Of each stage's reduced gradient; all replicas have the same."""
        return {seat.stage: self.prepared[seat].gradient_norm for seat in sorted(self.prepared)}

    def finite(self) -> bool:
        """Something that can be learnt from."""
        return all(map(math.isfinite, (self.loss(), *self.gradient_norms().values())))

    def why_not(self) -> str:
        """Of what is not finite. One line."""
        return (
            f"the loss or a gradient of iteration {self.ticket.iteration} is not finite "
            f"(loss {self.loss()}): lower optimizer.lr or set optimizer.clip"
        )

    def clip(self, terms: Terms) -> dict[int, float]:
        """What each stage multiplies its gradient by."""
        return clip_factors(self.gradient_norms(), terms.clip, terms.clip_over)

    def record(self, tick: int, terms: Terms) -> IterationRecord:
        """What is written down of it, once committed."""
        answers = self.prepared.values()
        return IterationRecord(
            iteration=self.ticket.iteration,
            tick=tick,
            epoch=self.ticket.epoch,
            loss=self.loss(),
            gradient_norms={str(s): norm for s, norm in self.gradient_norms().items()},
            clip={str(s): factor for s, factor in self.clip(terms).items()},
            forwards=sum(answer.forwards for answer in answers),
            redundant_forwards=sum(answer.redundant_forwards for answer in answers),
            alive=len(self.prepared),
            tokens=terms.tokens,
        )


def clip_factors(norms: Mapping[int, float], clip: float | None, over: str) -> dict[int, float]:
    """What each stage's gradient is multiplied by so that no norm exceeds ``clip``: its own, or
    that of all stages together (``over="global"``). As torch's ``clip_grad_norm_``."""
    if clip is None:
        return dict.fromkeys(norms, 1.0)
    if over == "global":
        norms = dict.fromkeys(norms, math.sqrt(sum(norm**2 for norm in norms.values())))
    return {stage: min(1.0, clip / (norm + 1e-6)) for stage, norm in norms.items()}

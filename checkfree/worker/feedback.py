"""Error feedback: what rounding took of a gradient is added to the next one on the same link.

After 1-bit SGD (Seide et al. 2014) and EF-SGD (Karimireddy et al., arXiv 1901.09847): whatever is
sent of a sum, the sum of all that was sent is off by the last rounding error alone. Here the sum is
that of an iteration's microbatches. It begins with nothing owed in every attempt at an iteration,
and the schedule says in which order a seat sends: so who tries again, replays or resumes owes the
same. What is owed at the end is dropped.

Activations have none. Nothing sums them: each is another sample's, and would carry the error of
that sample beside its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from checkfree.core.ops import Address
from checkfree.stage import Part

LinkKey = tuple[Address, Part, torch.Size]
"""Whom it was for, by which share of its stage the sender made it, and its shape: only what is
alike in these can make up for it."""


@dataclass
class Feedback:
    """What a seat owes in one attempt, by link."""

    _owed: dict[LinkKey, Tensor] = field(default_factory=dict)

    def due(self, to: Address, part: Part, gradient: Tensor) -> Tensor:
        """What is to be sent instead of ``gradient``; in 32 bits at least."""
        wide = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        owed = self._owed.get((to, part, gradient.shape))
        return wide if owed is None else wide + owed

    def sent(self, to: Address, part: Part, due: Tensor, as_read: Tensor) -> None:
        """``due`` has left, and whoever gets it reads ``as_read``. What is not finite stays so in
        that one message: nothing is owed of it."""
        self._owed[to, part, due.shape] = (due - as_read).nan_to_num_(0.0, 0.0, 0.0)

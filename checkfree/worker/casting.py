"""How activations and gradients leave a worker: what is sent is what the receiver computes with.

The sender packs and the receiver unpacks, in any runtime. So a swarm trains on the same numbers as
one process does, and so does whoever computes a forward twice (``redundant``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from checkfree.core.formats import FP32
from checkfree.core.ops import Address, Op
from checkfree.messages.control import Ticket
from checkfree.messages.quantize import CODES, SCALES, VALUES, pack, unpack
from checkfree.messages.tensors import Activation, Gradient
from checkfree.worker.feedback import Feedback


@dataclass(frozen=True)
class Casting:
    """Formats of ``checkfree.core.formats.WIRE``; fp32 sends what was computed as it is.
    ``feedback``: what is lost of a gradient is added to the next."""

    activations: str = FP32
    gradients: str = FP32
    feedback: bool = False

    def activation(self, ticket: Ticket, op: Op, tensor: Tensor) -> Activation:
        """``tensor`` as the input of ``op``."""
        values, scales = _written(tensor, self.activations)
        return Activation(ticket, op.microbatch, op.hop, values, scales)

    def gradient(
        self, ticket: Ticket, op: Op, tensor: Tensor, to: Address, owed: Feedback
    ) -> Gradient:
        """``tensor`` as the input of ``op``, for the seat ``to``. ``owed``: of this attempt."""
        if not self.feedback or self.gradients == FP32:
            values, scales = _written(tensor, self.gradients)
            return Gradient(ticket, op.microbatch, op.hop, values, scales)
        due = owed.due(to, tensor)
        values, scales = _written(due, self.gradients)
        message = Gradient(ticket, op.microbatch, op.hop, values, scales)
        owed.sent(to, due, self.read(message, due.dtype))
        return message

    def read(self, message: Activation | Gradient, dtype: torch.dtype) -> Tensor:
        """What a stage of ``dtype`` computes with. Raises ValueError for what nobody sends."""
        how = self.activations if isinstance(message, Activation) else self.gradients
        if how == FP32:
            return message.tensor
        if message.scales is None:
            return unpack({VALUES: message.tensor}, how, dtype)
        return unpack({CODES: message.tensor, SCALES: message.scales}, how, dtype)


def _written(tensor: Tensor, how: str) -> tuple[Tensor, Tensor | None]:
    if how == FP32:
        return tensor, None
    parts = pack(tensor, how)
    return parts.get(VALUES, parts.get(CODES)), parts.get(SCALES)  # type: ignore[return-value]

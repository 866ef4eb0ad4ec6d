"""How activations and gradients leave a worker: what is sent is what the receiver computes with.

The sender packs and the receiver unpacks, in any runtime. So a swarm trains on the same numbers as
one process does, and so does whoever computes a forward twice (``redundant``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from checkfree.core.formats import FP32, INT4, INT8
from checkfree.core.links import Way
from checkfree.core.ops import Op
from checkfree.messages.control import Ticket
from checkfree.messages.quantize import CODES, SCALES, VALUES, pack, unpack
from checkfree.messages.tensors import Activation, Gradient
from checkfree.stage import Part
from checkfree.worker.feedback import Feedback


@dataclass(frozen=True)
class Casting:
    """Formats of ``checkfree.core.formats.WIRE``; fp32 sends what was computed as it is.
    ``feedback``: what is lost of a gradient is added to the next. ``links``: those that have
    another format for both."""

    activations: str = FP32
    gradients: str = FP32
    feedback: bool = False
    links: Mapping[Way, str] = field(default_factory=dict)

    def activation(
        self, ticket: Ticket, op: Op, tensor: Tensor, link: Way | None = None
    ) -> Activation:
        """``tensor`` as the input of ``op``, over ``link``; None: over one like most."""
        how = self.activations if link is None else self.links.get(link, self.activations)
        values, scales = _written(tensor, how)
        return Activation(ticket, op.microbatch, op.hop, values, scales)

    def gradient(
        self,
        ticket: Ticket,
        op: Op,
        tensor: Tensor,
        link: Way,
        owed: Feedback,
        part: Part = Part.BODY,
    ) -> Gradient:
        """``tensor`` as the input of ``op``, over ``link``. ``owed``: of this attempt; ``part`` of
        the sender's stage made it."""
        how, (_, to) = self.links.get(link, self.gradients), link
        if not self.feedback or how == FP32:
            values, scales = _written(tensor, how)
            return Gradient(ticket, op.microbatch, op.hop, values, scales)
        due = owed.due(to, part, tensor)
        values, scales = _written(due, how)
        message = Gradient(ticket, op.microbatch, op.hop, values, scales)
        owed.sent(to, part, due, self.read(message, due.dtype))
        return message

    def read(self, message: Activation | Gradient, dtype: torch.dtype) -> Tensor:
        """What a stage of ``dtype`` computes with, over whichever link it came. Raises ValueError
        for what nobody sends."""
        usual = self.activations if isinstance(message, Activation) else self.gradients
        if usual == FP32 and not self.links:
            return message.tensor
        if message.scales is None:
            return unpack({VALUES: message.tensor}, usual, dtype)
        how = INT8 if message.tensor.dtype == torch.int8 else INT4
        if how not in (usual, *self.links.values()):
            raise ValueError(f"{how}: no link has that")
        return unpack({CODES: message.tensor, SCALES: message.scales}, how, dtype)


def _written(tensor: Tensor, how: str) -> tuple[Tensor, Tensor | None]:
    if how == FP32:
        return tensor, None
    parts = pack(tensor, how)
    return parts.get(VALUES, parts.get(CODES)), parts.get(SCALES)  # type: ignore[return-value]

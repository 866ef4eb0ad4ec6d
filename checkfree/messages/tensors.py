"""Messages with tensors: between workers, and to the store.

Whatever leaves a worker is contiguous and owns its memory, or is never changed again by its
sender: so a receiver cannot see what the sender does next, and a transport can't change a bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from checkfree.core.ops import Address, Keep, Mirror, Source, Transfer
from checkfree.messages.control import Message, Ticket


@dataclass(frozen=True)
class Activation(Message):
    """What hop ``hop`` of the microbatch's route consumes. (batch, sequence, width)

    With ``scales``, ``tensor`` has the codes of ``checkfree.messages.quantize`` (int8, int4)."""

    ticket: Ticket
    microbatch: int
    hop: int
    tensor: Tensor
    scales: Tensor | None = None


@dataclass(frozen=True)
class Gradient(Message):
    """The loss' gradient by what hop ``hop`` sent on; same shape as that, written in its own
    way."""

    ticket: Ticket
    microbatch: int
    hop: int
    tensor: Tensor
    scales: Tensor | None = None


@dataclass(frozen=True)
class Share(Message):
    """One replica's summed gradients, for the others of its stage."""

    ticket: Ticket
    sender: Address
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class KeepGradient(Message):
    """An owner's reduced gradient, unclipped, for the holder of an exact copy of its stage."""

    ticket: Ticket
    keep: Mirror
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class StageState:
    """All that a stage is, after ``version`` committed iterations.

    ``moments`` is the optimizer's state, flat, by "parameter/name"; empty: a fresh optimizer.
    ``buffers`` empty: the stage keeps its own (they never change, semantics 18), and so it does
    with parameters that never train, where ``params`` lacks them.
    The norms are those of the last committed step's reduced gradient, before and after clipping.
    ``packed``: ``params`` are the parts of ``checkfree.messages.quantize`` by "parameter/part",
    written so.
    """

    params: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    version: int
    gradient_norm: float = 0.0
    clipped_norm: float = 0.0
    lr_scale: float = 1.0
    packed: str = ""
    held: Mapping[str, Tensor] = field(default_factory=dict)
    """In a snapshot of ``--resume``: what its seat holds for others."""
    heading: Mapping[str, Tensor] = field(default_factory=dict)
    """Of a shadow that changes have made: the last of them, by "parameter/part"."""
    since: int = 0
    """The version that it was a change of."""

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All tensors, by a name that tells them apart."""
        for group in ("params", "buffers", "moments", "held", "heading"):
            for name, tensor in getattr(self, group).items():
                yield f"{group}:{name}", tensor

    def in_host_memory(self) -> StageState:
        """The same, on the CPU: what is there already is not copied."""
        if all(tensor.is_cpu for _, tensor in self.tensors()):
            return self
        params, buffers, moments, held, heading = (
            {name: tensor.cpu() for name, tensor in group.items()}
            for group in (self.params, self.buffers, self.moments, self.held, self.heading)
        )
        return replace(
            self, params=params, buffers=buffers, moments=moments, held=held, heading=heading
        )

    def destroy(self) -> None:
        """Lost means lost: overwrite all of them, with NaN where they can be."""
        for _, tensor in self.tensors():
            with torch.no_grad():
                tensor.fill_(float("nan") if tensor.is_floating_point() else 0)


@dataclass(frozen=True)
class KeepState(Message):
    """A state to put aside; ``area`` and ``shelf`` say where, if the holder is the store."""

    epoch: int
    keep: Keep
    area: str
    shelf: int
    state: StageState


@dataclass(frozen=True)
class KeepShadow(Message):
    """owner -> holder: my packed weights. ``epoch`` is that of the iteration they come after.
    ``base``: they are a change of what you hold of that version of my stage."""

    epoch: int
    keep: Transfer
    state: StageState
    base: int | None = None


@dataclass(frozen=True)
class BoundaryReply(Message):
    """What went into a stage, as its predecessors sent it, and what came out of it, as its
    successors received it; of committed iterations, in their order."""

    epoch: int
    sender: Address
    stage: int
    inputs: tuple[Activation, ...] = ()
    outputs: tuple[Activation, ...] = ()


@dataclass(frozen=True)
class StateReply(Message):
    """The answer to a StateRequest; no state: ``problem`` says why."""

    epoch: int
    source: Source
    state: StageState | None
    problem: str = ""


def tensor_bytes(message: object) -> int:
    """Bytes of tensor data that a message carries; headers and framing left out."""
    if isinstance(message, (Activation, Gradient)):
        return message.tensor.nbytes + (0 if message.scales is None else message.scales.nbytes)
    return sum(tensor.nbytes for tensor in tensors_of(message))


def tensors_of(message: object) -> Iterator[Tensor]:
    """Every tensor of a message."""
    match message:
        case Activation() | Gradient():
            yield message.tensor
            if message.scales is not None:
                yield message.scales
        case Share() | KeepGradient():
            yield from message.tensors.values()
        case KeepState(state=StageState() as state) | StateReply(state=StageState() as state):
            yield from (tensor for _, tensor in state.tensors())
        case KeepShadow():
            yield from (tensor for _, tensor in message.state.tensors())
        case BoundaryReply():
            for activation in (*message.inputs, *message.outputs):
                yield from tensors_of(activation)
        case _:
            return

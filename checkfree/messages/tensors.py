"""Messages with tensors: between workers, and to the store.

Whatever leaves a worker is contiguous and owns its memory, or is never changed again by its
sender: so a receiver cannot see what the sender does next, and a transport can't change a bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from checkfree.messages.control import Message, Ticket
from checkfree.ops import Address, Keep, Source


@dataclass(frozen=True)
class Activation(Message):
    """What hop ``hop`` of the microbatch's route consumes. (batch, sequence, width)"""

    ticket: Ticket
    microbatch: int
    hop: int
    tensor: Tensor


@dataclass(frozen=True)
class Gradient(Message):
    """The loss' gradient by what hop ``hop`` sent on; same shape as that."""

    ticket: Ticket
    microbatch: int
    hop: int
    tensor: Tensor


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
    keep: Keep
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class StageState:
    """All that a stage is, after ``version`` committed iterations.

    ``moments`` is the optimizer's state, flat, by "parameter/name"; empty: a fresh optimizer.
    ``buffers`` empty: the stage keeps its own (they never change, semantics 18).
    The norms are those of the last committed step's reduced gradient, before and after clipping.
    """

    params: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    version: int
    gradient_norm: float = 0.0
    clipped_norm: float = 0.0
    lr_scale: float = 1.0

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All tensors, by a name that tells them apart."""
        for group in ("params", "buffers", "moments"):
            for name, tensor in getattr(self, group).items():
                yield f"{group}:{name}", tensor


@dataclass(frozen=True)
class KeepState(Message):
    """A state to put aside; ``area`` and ``shelf`` say where, if the holder is the store."""

    epoch: int
    keep: Keep
    area: str
    shelf: int
    state: StageState


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
        return message.tensor.nbytes
    return sum(tensor.nbytes for tensor in tensors_of(message))


def tensors_of(message: object) -> Iterator[Tensor]:
    """Every tensor of a message."""
    match message:
        case Activation() | Gradient():
            yield message.tensor
        case Share() | KeepGradient():
            yield from message.tensors.values()
        case KeepState(state=StageState() as state) | StateReply(state=StageState() as state):
            yield from (tensor for _, tensor in state.tensors())
        case _:
            return

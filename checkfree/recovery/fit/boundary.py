"""What crossed a seat's boundaries: filed by each forward, kept when its iteration commits.

It is held as it came, which costs nothing, and told in 16 bits at most: a fit needs no more, and a
snapshot of all seats would be mostly this.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from checkfree.core.ops import Address, Op, Route
from checkfree.messages.control import BoundaryRequest, Ticket
from checkfree.messages.tensors import Activation, BoundaryReply, tensor_bytes
from checkfree.recovery.fit.activations import Crossing, Ring, matches

Crossed = Ring[Activation]

SCALES = "/scales"


def crossing(message: Activation) -> Crossing:
    """When an activation crossed, and where."""
    return message.ticket.iteration, message.microbatch, message.hop


def file_input(crossed: Crossed, route: Route, op: Op, message: Activation) -> None:
    """What ``op`` has read, from the stage before it."""
    stage = route[op.hop - 1].stage
    crossed.got.add(crossing(message), stage, message, tensor_bytes(message))


def file_output(crossed: Crossed, route: Route, message: Activation) -> None:
    """What was sent to the stage that reads ``message``."""
    stage = route[message.hop].stage
    crossed.sent.add(crossing(message), stage, message, tensor_bytes(message))


def reply(crossed: Crossed, address: Address, request: BoundaryRequest) -> BoundaryReply:
    """What is held of the stage that is asked about: its inputs were sent, its outputs came."""
    sent, got = (
        tuple(_told(message) for _, message in side.newest(request.stage, request.pairs))
        for side in (crossed.sent, crossed.got)
    )
    return BoundaryReply(request.epoch, address, request.stage, sent, got)


def flat(crossed: Crossed) -> dict[str, Tensor]:
    """All that is held, as tensors by names that tell what they are."""
    found = {}
    for way, side in (("sent", crossed.sent), ("got", crossed.got)):
        for (iteration, microbatch, hop), stage, message, count in side.items():
            name = f"{way}/{stage}/{count}/{message.ticket.epoch}/{iteration}/{microbatch}/{hop}"
            found[name] = _told(message).tensor
            if message.scales is not None:
                found[name + SCALES] = message.scales
    return found


def take(crossed: Crossed, found: Mapping[str, Tensor]) -> None:
    """Inverse of ``flat``. Raises ValueError for names that it doesn't make."""
    for name, tensor in found.items():
        if name.endswith(SCALES):
            continue
        way, *numbers = name.split("/")
        stage, count, epoch, iteration, microbatch, hop = map(int, numbers)
        scales = found.get(name + SCALES)
        message = Activation(Ticket(epoch, iteration), microbatch, hop, tensor, scales)
        side = {"sent": crossed.sent, "got": crossed.got}[way]
        side.add(crossing(message), stage, message, count)


def _told(message: Activation) -> Activation:
    if message.tensor.dtype in (torch.float32, torch.float64):
        return replace(message, tensor=message.tensor.to(torch.bfloat16))
    return message


def pairs_of(replies: Collection[BoundaryReply]) -> list[tuple[Activation, Activation]]:
    """Inputs of the stage beside its outputs, in order of time, whoever held them."""
    inputs = {crossing(a): a for reply in replies for a in reply.inputs}
    outputs = {crossing(a): a for reply in replies for a in reply.outputs}
    return list(matches(inputs, outputs))

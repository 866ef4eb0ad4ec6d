"""Weighted sums of states, a stage at a time, and the loss of what they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from checkfree.core.errors import BadInput
from checkfree.core.ops import Address, Kind, Op
from checkfree.core.units import derive
from checkfree.messages.control import Purpose, Ticket
from checkfree.messages.tensors import StageState
from checkfree.pipeline.routes import in_order, revisiting
from checkfree.stage import Part, Stage, body_part
from checkfree.worker import WorkerContext

Weights = Callable[[int], Mapping[str, Tensor]]
"""Of a stage: its parameters and buffers, by name."""

_TICKET = Ticket(0, 0, Purpose.VALIDATE)


def combined(states: Sequence[Weights], factors: Sequence[float]) -> Weights:
    """The sum of states times ``factors``, which sum to 1. It is taken as the last state plus its
    differences to the others, in 64 bits: so what is the same in all of them, as a buffer is, comes
    out as it is, infinite or not. Whole numbers are those of the last state. One that weighs
    nothing is not read: not finite as it may be, it would weigh. Two states of a stage are in
    memory at once, with one in 64 bits."""
    *others, (newest, _) = [
        (state, factor) for state, factor in zip(states, factors, strict=True) if factor
    ]

    def load(stage: int) -> Mapping[str, Tensor]:
        last = newest(stage)
        sums: dict[str, Tensor] = {}
        for state, factor in others:
            for name, tensor in state(stage).items():
                if _summed(tensor) and not torch.equal(tensor, last[name]):
                    base = _wide(last[name])
                    sums.setdefault(name, base.clone()).add_(_wide(tensor) - base, alpha=factor)
        return {n: sums[n].to(t.dtype) if n in sums else t for n, t in last.items()}

    return load


def _summed(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


class PipelineLoss:
    """The loss of weights on text, as a validation of the run would find it: activations are cast
    as there. ``stages``: with stage 0. A stage is in memory at a time, with the activations of all
    weights that are looked at; ``held``: all stages are, and stay there for the next time."""

    def __init__(self, context: WorkerContext, stages: int, *, held: bool = False):
        self._context, self._stages = context, stages
        plain = in_order([Address(stage) for stage in range(stages)], 1)
        (self._route,) = revisiting(plain, context.chunks)
        self.seed, self.hops = context.seed, len(self._route)
        self._held: dict[int, Stage] | None = {} if held else None

    def losses(
        self,
        several: Sequence[Weights],
        batches: Sequence[Any],
        watch: Callable[[], None] = lambda: None,
        *,
        sizes: Sequence[int] | None = None,
    ) -> list[float]:
        """The mean loss of each of several weights. ``sizes``: what a batch weighs in it, as its
        sequences; None: all the same, as in a validation. ``watch`` is called after each
        hop of each. Raises BadInput for weights that are not the run's."""
        crossing: list[list[Tensor | None]] = [[None] * len(batches) for _ in several]
        for hop in range(self.hops):
            number = self._route[hop].stage
            stage = self._stage(number)
            part = Part.HEAD if hop else Part.EMBED
            if number:
                part = body_part(hop, self._stages - 1, stage.chunks)
            for weights, row in zip(several, crossing, strict=True):
                _restore(stage, number, weights(number))
                for place, (x, batch) in enumerate(zip(row, batches, strict=True)):
                    row[place] = self._forward(stage, part, Op(Kind.FORWARD, place, hop), x, batch)
                watch()
        sizes = [1] * len(batches) if sizes is None else sizes
        return [
            sum(size * float(y) for size, y in zip(sizes, row, strict=True) if y is not None)
            / sum(sizes)
            for row in crossing
        ]

    def _stage(self, number: int) -> Stage:
        if self._held is None:
            return self._context.make(number, number)
        if number not in self._held:
            self._held[number] = self._context.make(number, number)
        return self._held[number]

    def _forward(self, stage: Stage, part: Part, op: Op, x: Tensor | None, batch: Any) -> Tensor:
        casting = self._context.casting
        seed = derive(self._context.seed, "forward", _TICKET.iteration, op.microbatch, op.hop)
        one, other = self._route[op.hop - 1], self._route[op.hop]
        if x is not None and one != other:
            link = one, other  # of the first replicas
            x = casting.read(casting.activation(_TICKET, op, x, link), stage.dtype)
        return stage.evaluate(part, x, batch, seed)


def _restore(stage: Stage, number: int, tensors: Mapping[str, Tensor]) -> None:
    params = {name: tensor for name, tensor in tensors.items() if name in stage.params}
    buffers = {name: tensor for name, tensor in tensors.items() if name not in params}
    try:
        stage.restore(StageState(params, buffers, {}, 0))
    except ValueError as error:
        raise BadInput(f"stage {number} is not the run's: {error}") from None

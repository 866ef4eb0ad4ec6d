"""What each op does to a worker's stage and copies, and what it sends. Knows no membership."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from checkfree.core.errors import BadInput
from checkfree.core.ops import LEAD, Address, Kind, Op
from checkfree.core.units import derive
from checkfree.messages.control import Commit, Outgoing, Prepared, Purpose
from checkfree.messages.tensors import Activation, Gradient, KeepGradient, Share
from checkfree.recovery.fit.activations import Ring
from checkfree.recovery.fit.boundary import Crossed, file_input, file_output
from checkfree.stage import Part, Stage
from checkfree.stage.learnt import COMPUTED
from checkfree.stage.offload import Offloading
from checkfree.worker.attempt import Attempt
from checkfree.worker.context import WorkerContext
from checkfree.worker.inspection import are_gradients
from checkfree.worker.log import Sent, bytes_of


def summed(shares: Mapping[Address, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The gradients of all replicas, by parameter. In address order: float addition doesn't
    commute, and delivery must not show."""
    total: dict[str, Tensor] = {}
    for address in sorted(shares):
        for name, gradient in shares[address].items():
            known = total.get(name)
            total[name] = gradient.clone() if known is None else known + gradient.to(known.device)
    return total


def _logged(attempt: Attempt, to: Address, message: Activation | Gradient) -> Sent:
    if attempt.plan.logs is not None:
        attempt.sent.append((to, message))
    return to, message


class Unfit(ValueError):
    """What came from another seat is nothing to compute with: as good as if it had not come."""


@contextmanager
def _named(stage: int) -> Iterator[None]:
    """Have a refusal of what its module does name the stage."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"stage {stage}: {error}") from error


class Compute:
    """A worker's own ``stage``, and by stage the exact ``copies`` that it holds for others."""

    def __init__(self, address: Address, context: WorkerContext):
        self.address = address
        self.stage = context.make(address.stage, address.stage)
        self.copies: dict[int, Stage] = {}
        self.crossed: Crossed = Ring(context.strategy.activation_buffer)
        self._shapes: set[torch.Size] = set()
        """Of activations that the stage took."""
        self._context = context

    def all(self) -> tuple[Stage, ...]:
        """Own stage and copies."""
        return (self.stage, *self.copies.values())

    def copy_of(self, stage: int) -> Stage:
        """The copy held of a stage, made if there is none yet."""
        if stage not in self.copies:
            self.copies[stage] = self._context.make(stage, self.address.stage)
        return self.copies[stage]

    # --- ops -------------------------------------------------------------------------------------

    def run(self, attempt: Attempt, op: Op) -> list[Outgoing]:
        """One op whose inputs are here. Raises Unfit for those that are no good; they are gone; and
        BadInput for a module that can't be trained, with its stage, and for data."""
        if attempt.training and self.stage.offloads is not None:
            self._look_ahead(attempt, self.stage.offloads)
        match op.kind:
            case Kind.FORWARD:
                return self._forward(attempt, op)
            case Kind.BACKWARD:
                return self._backward(attempt, op)
            case Kind.WEIGHTS:
                self.stage.backward_weights((op.microbatch, op.hop))
                return []
            case Kind.REDUNDANT:
                return self._redundant(attempt, op)
            case Kind.REDUCE:
                return self._reduce(attempt)

    def _look_ahead(self, attempt: Attempt, how: Offloading) -> None:
        """Have the stage move what its seat is to move, and bring back what an op soon needs."""
        if attempt.moves is None:
            attempt.moves = how.chosen(tuple(attempt.plan.schedule[attempt.address]))
        moves, todo = attempt.moves, attempt.todo
        self.stage.moving = moves.keys
        key = moves.back(todo[moves.ahead - 1] if len(todo) >= moves.ahead else None)
        if key is not None:
            self.stage.read_ahead(key)

    def _forward(self, attempt: Attempt, op: Op) -> list[Outgoing]:
        key, part = (op.microbatch, op.hop), attempt.part(op)
        came = attempt.activations.pop(key, None)
        before = attempt.route(op)[op.hop - 1]
        y = self._through(attempt, op, self._read(came, self.stage, before))
        others = before != attempt.address
        if attempt.training and came is not None and others and attempt.crossed.holds:
            file_input(attempt.crossed, attempt.route(op), op, came)
        if part is Part.HEAD:
            attempt.losses[op.microbatch] = y
            return []
        following = op._replace(hop=op.hop + 1)
        to, casting = attempt.route(op)[following.hop], self._context.casting
        if to == attempt.address:  # its other chunk: nothing is sent
            attempt.file(Activation(attempt.ticket, *following[1:], y))
            return []
        message = casting.activation(attempt.ticket, following, y, (attempt.address, to))
        if attempt.todo and attempt.todo[0] == following._replace(kind=Kind.REDUNDANT):
            attempt.doubled[following.microbatch, following.hop] = message
        if attempt.training and attempt.crossed.holds:
            file_output(attempt.crossed, attempt.route(op), message)
        return [_logged(attempt, to, message)]

    def _through(self, attempt: Attempt, op: Op, x: Tensor | None) -> Tensor:
        """What the stage makes of ``x``. If it can't, and never was given that shape but others,
        whoever sent it is to blame, where that may be a stranger."""
        part, batch, seed = attempt.part(op), self._batch(attempt, op), self._seed(attempt, op)
        try:
            with _named(self.address.stage):
                if not attempt.training:
                    return self.stage.evaluate(part, x, batch, seed)
                y = self.stage.forward((op.microbatch, op.hop), part, x, batch, seed)
        except RuntimeError as error:
            known = x is None or not self._shapes or x.shape in self._shapes
            if known or not self._context.strangers:
                raise
            raise Unfit(f"the activation for {op} fits no stage: {error}") from error
        attempt.forwards += 1
        if x is not None:
            self._shapes.add(x.shape)
        return y

    def _backward(self, attempt: Attempt, op: Op) -> list[Outgoing]:
        key, share = (op.microbatch, op.hop), 1 / len(attempt.plan.routes)
        after = attempt.route(op)[op.hop + 1 : op.hop + 2]
        dy = self._read(attempt.gradients.pop(key, None), self.stage, *after)
        if dy is not None and dy.shape != self.stage.shape_of(key):
            raise Unfit(f"the gradient for {op} is {list(dy.shape)}")
        split = op._replace(kind=Kind.WEIGHTS) in attempt.own
        dx = self.stage.backward(key, dy, share, split=split)
        if dx is None:
            return []
        following = op._replace(hop=op.hop - 1)
        to, casting = attempt.route(op)[following.hop], self._context.casting
        if to == attempt.address:
            attempt.file(Gradient(attempt.ticket, *following[1:], dx))
            return []
        link = attempt.address, to
        owed, part = attempt.feedback, attempt.part(op)
        message = casting.gradient(attempt.ticket, following, dx, link, owed, part)
        return [_logged(attempt, to, message)]

    def _redundant(self, attempt: Attempt, op: Op) -> list[Outgoing]:
        stage = attempt.route(op)[op.hop].stage
        copy = self.copies[stage]
        x = self._read(attempt.doubled.pop((op.microbatch, op.hop)), copy)
        batch, seed = self._batch(attempt, op), self._seed(attempt, op)
        with _named(stage):
            copy.redundant_forward(attempt.part(op), x, batch, seed)
        attempt.redundant_forwards += 1
        return []

    def _reduce(self, attempt: Attempt) -> list[Outgoing]:
        if len(attempt.shares) > 1:
            shares = {address: share.tensors for address, share in attempt.shares.items()}
            self.stage.set_gradients(summed(shares))
        return []

    def _read(
        self, message: Activation | Gradient | None, stage: Stage, sender: Address | None = None
    ) -> Tensor | None:
        """As whoever it was sent to reads it."""
        if message is None:
            return None
        if sender is not None and sender.stage == self.address.stage:
            return message.tensor
        try:
            found = self._context.casting.read(message, stage.dtype)
        except (ValueError, RuntimeError) as error:
            raise Unfit(str(error)) from error
        if found.dtype not in COMPUTED:
            raise Unfit(f"activations and gradients of {found.dtype}")
        return found

    def fits(self, message: Share | KeepGradient) -> bool:
        """These are gradients of the stage, or of the copy, that they are for."""
        if isinstance(message, Share):
            return are_gradients(message.tensors, self.stage)
        copy = self.copies.get(message.keep.owner.stage)
        return copy is not None and are_gradients(message.tensors, copy)

    def _batch(self, attempt: Attempt, op: Op) -> Any:
        """What the embedding reads, and the head of the same seat once more."""
        part = attempt.part(op)
        if not part.ends:
            return None
        if part is Part.HEAD and op.microbatch in attempt.batches:
            return attempt.batches.pop(op.microbatch)
        ticket = attempt.ticket
        purpose = Purpose.TRAIN if attempt.training else Purpose.VALIDATE
        batch = self._context.batches[purpose](ticket.iteration, op.microbatch)
        if part is Part.EMBED:
            attempt.batches[op.microbatch] = batch
        return batch

    def _seed(self, attempt: Attempt, op: Op) -> int:
        """Of a forward's dropout: the same for every try, and a redundant one (semantics 18)."""
        iteration = attempt.ticket.iteration
        return derive(self._context.seed, "forward", iteration, op.microbatch, op.hop)

    # --- the end of an iteration -----------------------------------------------------------------

    def share(self, attempt: Attempt) -> list[Outgoing]:
        """The summed gradients, to the other replicas."""
        attempt.shared = True
        share = Share(attempt.ticket, self.address, self.stage.gradients())
        attempt.file(share)
        return [(twin, share) for twin in attempt.twins if twin != self.address]

    def keep_gradients(self, attempt: Attempt) -> list[Outgoing]:
        """The reduced gradients, to who holds an exact copy of this stage."""
        attempt.pushed = True
        if not attempt.training:
            return []
        self.stage.reduced()
        out: list[Outgoing] = []
        for keep in attempt.copied:
            own = {name: grad.clone() for name, grad in self.stage.gradients().items()}
            out.append((keep.holder, KeepGradient(attempt.ticket, keep, own)))
        return out

    def prepared(self, attempt: Attempt) -> list[Outgoing]:
        """The answer to the lead; the one place where losses are read to the host."""
        attempt.prepared = True
        order = sorted(attempt.losses)
        losses = torch.stack([attempt.losses[m] for m in order]).tolist() if order else []
        answer = Prepared(
            attempt.ticket,
            self.address,
            tuple(zip(order, losses, strict=True)),
            self.stage.reduced_norm,
            attempt.forwards,
            attempt.redundant_forwards,
            bytes_of(attempt.sent),
        )
        return [(LEAD, answer)]

    def commit(self, attempt: Attempt, order: Commit) -> None:
        """Step the stage, and the copies with their owners' gradients."""
        iteration = order.ticket.iteration
        self.stage.step(iteration, order.clip[self.address.stage])
        self.crossed.merge(attempt.crossed)
        for keep in attempt.held:
            copy = self.copies[keep.owner.stage]
            copy.set_gradients(attempt.kept[keep].tensors)
            copy.reduced()
            copy.step(iteration, order.clip[keep.owner.stage])

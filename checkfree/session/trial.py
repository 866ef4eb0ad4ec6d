"""Whether modules that are not ours can train: one microbatch goes through copies of them, before a
run begins. That forward changes a buffer, where a gradient ends, or that a backward can't be split
shows in no other way.

One body stage is there at a time, so that this takes no memory that the run would not.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from checkfree.core.errors import BadInput
from checkfree.core.ops import Kind, Op
from checkfree.core.units import derive
from checkfree.messages.control import Purpose, Ticket
from checkfree.pipeline import SCHEDULES, chunks_of, split_backwards
from checkfree.pipeline.routes import in_order, revisiting
from checkfree.runtime.forking import ask_fork
from checkfree.runtime.process import settled
from checkfree.session.job import Job
from checkfree.session.terms import seats
from checkfree.stage import Part, Stage, body_parts

TICKET = Ticket(0, 0)
"""Of the microbatch that is tried: the run's first."""


def try_out(job: Job) -> Job:
    """The job, knowing which stages it can't split. Raises BadInput, naming the stage, for a module
    that can't be trained, and whatever a module or a batch of the user's raises. Ours can: they are
    not tried."""
    if not job.blueprint.untried:
        return job
    with settled(job.config.threads):
        trial = _Trial(job, Purpose.TRAIN)
        trial.run()
        if job.config.validation.every:
            _Trial(job, Purpose.VALIDATE).run()
    unsplit = trial.unsplit
    if job.blueprint.untried == (1,) and 1 in unsplit:  # it stands for all of the body
        unsplit |= {*range(1, job.config.stages + 1)}
    return replace(job, unsplit=tuple(sorted(unsplit)))


def try_out_in_fork(job: Job) -> Job:
    """The same where processes are still to be forked, which threads of autograd or a CUDA context
    would not survive. What a module raises is a BadInput here, its traceback on standard error."""
    if not job.blueprint.untried:
        return job

    def tried() -> str:
        try:
            return json.dumps(try_out(job).unsplit)
        except BadInput as error:
            return str(error)
        except Exception as error:
            traceback.print_exc()
            return f"model.family={job.config.model.family} raises {type(error).__name__}: {error}"

    told = ask_fork(tried)
    if told and not told.startswith("["):
        raise BadInput(told)
    return replace(job, unsplit=tuple(json.loads(told or "[]")))


class _Trial:
    """The first microbatch of a purpose: of a training with its backward and a step."""

    def __init__(self, job: Job, purpose: Purpose):
        self._context, self._bodies = job.worker_context, job.blueprint.untried
        self._trains = purpose is Purpose.TRAIN
        # One from outside is run when the run begins, and no sooner.
        ours = SCHEDULES.get(job.config.schedule)
        routes = revisiting(in_order(seats(job.config), 1), chunks_of(job.config.schedule))
        self._splits = bool(ours and split_backwards(ours(routes)))
        self.unsplit: set[int] = set()
        """Stages whose backwards are whole, though the schedule would split them."""
        self._batch = self._context.batches[purpose](TICKET.iteration, 0)

    def run(self) -> None:
        edge = self._context.make(0, 0)
        embedded = y = self._forward(edge, 0, Part.EMBED, 0, None)
        last = 1
        for number in self._bodies:
            stage = self._context.make(number, number)
            for part in body_parts(stage.chunks):
                y = self._forward(stage, number, part, last, y)
                if self._trains:
                    with _named(number):
                        self._backward(stage, number, last, torch.zeros_like(y))
                last += 1
            if self._trains:
                with _named(number):
                    _step(stage)
        self._forward(edge, 0, Part.HEAD, last, y)
        if self._trains:
            with _named(0):
                self._backward(edge, 0, last, None)
                edge.backward((0, 0), torch.zeros_like(embedded))
                _step(edge)

    def _backward(self, stage: Stage, number: int, hop: int, dy: Tensor | None) -> None:
        stage.backward((0, hop), dy, split=self._splits)
        if not self._splits or stage.backward_weights((0, hop)):
            return
        if any(param.requires_grad and param.ndim > 1 for param in stage.params.values()):
            self.unsplit.add(number)

    def _forward(self, stage: Stage, number: int, part: Part, hop: int, x: Tensor | None) -> Tensor:
        casting, op = self._context.casting, Op(Kind.FORWARD, 0, hop)
        seed = derive(self._context.seed, "forward", TICKET.iteration, 0, hop)
        with _named(number):
            if x is not None:
                x = casting.read(casting.activation(TICKET, op, x), stage.dtype)
            if self._trains:
                return stage.forward((0, hop), part, x, self._batch, seed)
            return stage.evaluate(part, x, self._batch, seed)


def _step(stage: Stage) -> None:
    stage.reduced()
    stage.step(TICKET.iteration, 1.0)


@contextmanager
def _named(number: int) -> Iterator[None]:
    try:
        yield
    except BadInput as error:
        raise BadInput(f"stage {number}: {error}") from error

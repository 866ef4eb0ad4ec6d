"""A stage that runs iterations once more, by itself: with the inputs and gradients that its
neighbours sent then, it makes the very steps that it made.

It asks for the messages of two iterations at a time, of every seat that may have sent some. Whoever
has them in its log sends them at once; who is on its way there itself, as it gets there. So stages
that were lost together meet again, wherever each began.

Where the stage had replicas, it runs the ops of all of them, each in its own order, and sums their
gradients as they did.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from functools import cached_property
from sys import float_info

from torch import Tensor

from checkfree.core.live import ReplayProgress
from checkfree.core.ops import LEAD, Address, Course, Kind
from checkfree.core.records import APART
from checkfree.messages.control import (
    Begin,
    Outgoing,
    Purpose,
    Rebuild,
    Rebuilt,
    Replaying,
    Resend,
    Ticket,
)
from checkfree.messages.tensors import Activation, Gradient, StageState, tensor_bytes
from checkfree.recovery.replay.plan import senders
from checkfree.worker.attempt import Attempt
from checkfree.worker.compute import Compute, Unfit, summed
from checkfree.worker.log import Sent
from checkfree.worker.replayable import Replayable

WINDOW = 2
"""Iterations whose messages are asked for and not used up: one that runs, and the next, so that the
line is busy while the seat computes."""

Crossing = Activation | Gradient


class StageReplay:
    """From the version that the stage of ``compute`` has to the end of the order. What it sends is
    added to the log of ``kept``, and goes to whoever waits for it there. ``answer``: what the lead
    hears in the end. ``began``: the state that the stage has, where nobody else writes to it."""

    def __init__(
        self,
        order: Rebuild,
        compute: Compute,
        kept: Replayable,
        answer: Rebuilt,
        began: StageState | None = None,
    ):
        assert order.again is not None
        self.order, self._again = order, order.again
        self.compute, self._kept, self.answer = compute, kept, answer
        self._attempts: dict[Address, Attempt] = {}
        self._gradients: dict[Address, dict[str, Tensor]] = {}
        self._current: Address | None = None
        self._early: dict[int, list[Crossing]] = {}
        self._asked = self.version
        self.sent: list[Sent] = []
        """What it has sent of the iteration that it runs."""
        self.bytes = 0
        """Of what it was sent."""
        self.dropped = 0
        self.told = False
        """The lead has its answer."""
        self._apart = answer.check.get(APART, 0.0)
        self._keep_copy(began)
        self._begin()

    @property
    def version(self) -> int:
        """What it has reached."""
        return self.compute.stage.version

    @property
    def aside(self) -> bool:
        """Its outcome is no state: only the log."""
        return self._again.aside

    @cached_property
    def until(self) -> int:
        """The version that it ends with."""
        return self._again.start + len(self._again.steps)

    @property
    def done(self) -> bool:
        return self.version >= self.until

    @property
    def progress(self) -> ReplayProgress:
        """From where this order has it begin."""
        begins, checked = self._again.start, self._again.digest is not None
        return ReplayProgress(self.compute.address, begins, self.until, self.version, checked)

    def ticket(self, iteration: int) -> Ticket:
        """Of messages for it."""
        return Ticket(self.order.epoch, iteration, Purpose.REPLAY)

    # --- messages in -----------------------------------------------------------------------------

    def deliver(self, message: Crossing) -> None:
        """Of another order, or an iteration that is over or was not asked for: dropped."""
        ticket = message.ticket
        if ticket != self.ticket(ticket.iteration):
            self.dropped += 1
        elif ticket.iteration == self.version and self._attempts:
            self.bytes += tensor_bytes(message)
            self._file(message)
        elif self.version < ticket.iteration < self._asked:
            self.bytes += tensor_bytes(message)
            self._early.setdefault(ticket.iteration, []).append(message)

    def _file(self, message: Crossing) -> None:
        """For the replica whose op it was; more than one seat may have sent it."""
        for attempt in self._attempts.values():
            if attempt.expects(message):
                attempt.file(message)

    # --- messages out ----------------------------------------------------------------------------

    def advance(self) -> list[Outgoing] | None:
        """Ask for more, run one op, or step; None: only a message can help."""
        if self._asked < min(self.until, self.version + WINDOW):
            return self._ask()
        for old, attempt in self._attempts.items():
            if attempt.todo and attempt.ready(attempt.todo[0]):
                return self._run(old, attempt)
        if self._attempts and not any(attempt.todo for attempt in self._attempts.values()):
            return self._step()
        return None

    def lacks(self) -> Address | None:
        """Who was to send what comes next, for whoever looks for a stall."""
        return next((attempt.lacks() for attempt in self._attempts.values() if attempt.todo), None)

    def _ask(self) -> list[Outgoing]:
        iteration, self._asked = self._asked, self._asked + 1
        own = self.compute.address
        stages = {seat.stage for seat in senders(self._course(iteration).routes, own.stage)}
        request = Resend(self.order.epoch, own, iteration)
        return [(seat, request) for seat in self._again.seats if seat.stage in stages]

    def _course(self, iteration: int) -> Course:
        which, *_ = self._again.steps[iteration - self._again.start]
        return self._again.courses[which]

    def _begin(self) -> None:
        """The next iteration, if there is one."""
        self._attempts, self._gradients, self._current, self.sent = {}, {}, None, []
        if self.done:
            return
        course, iteration = self._course(self.version), self.version
        plan = Begin(self.ticket(iteration), course.routes, course.schedule, logs=0)
        for old in sorted(course.schedule):
            attempt = Attempt(plan, old)
            attempt.todo = deque(op for op in attempt.todo if op.kind is not Kind.REDUCE)
            self._attempts[old] = attempt
        for message in self._early.pop(iteration, ()):
            self._file(message)

    def _run(self, old: Address, attempt: Attempt) -> list[Outgoing]:
        if old != self._current:
            self._change_to(old)
        op = attempt.todo.popleft()
        try:
            self.compute.run(attempt, op)
        except Unfit:  # if no other comes, this stalls, and who owes it is known
            attempt.todo.appendleft(op)
            self.dropped += 1
            return []
        made, attempt.sent = attempt.sent, []
        iteration = attempt.ticket.iteration
        if self._is_logged(old, iteration):
            return []  # whoever waits for it has it from there
        self.sent += made
        return self._kept.sent_again(iteration, made)

    def _is_logged(self, old: Address, iteration: int) -> bool:
        """A seat of its stage has what it sent then in its own log."""
        return iteration >= self._again.logged.get(old, iteration + 1)

    def _change_to(self, old: Address) -> None:
        """Gradients add up for each replica by itself."""
        stage = self.compute.stage
        if self._current is not None:
            self._gradients[self._current] = stage.gradients()
        stage.set_gradients(self._gradients.get(old, {}))
        self._current = old

    def _step(self) -> list[Outgoing]:
        stage, iteration = self.compute.stage, self.version
        if self._current is not None:
            self._gradients[self._current] = stage.gradients()
        if len(self._attempts) > 1:
            shares = {old: self._gradients.get(old, {}) for old in self._attempts}
            stage.set_gradients(summed(shares))
        _, clip, norm = self._again.steps[iteration - self._again.start]
        self._apart = max(self._apart, relative_difference(stage.reduced(), norm))
        self.answer = replace(self.answer, check={APART: self._apart})
        if self._is_logged(self.compute.address, iteration):
            self._kept.log.extend(iteration, self.sent)
        else:
            self._kept.log.add(iteration, self.sent)
        stage.step(iteration, clip)
        self._keep_copy()
        self._begin()
        return self.told_version()

    def told_version(self) -> list[Outgoing]:
        """To the lead, what it has reached."""
        told = Replaying(self.order.epoch, self.order.life, self.compute.address, self.version)
        return [] if self.aside else [(LEAD, told)]

    def _keep_copy(self, state: StageState | None = None) -> None:
        if self.version in self._again.clones and not self.aside:
            self._kept.keep_own(state or self.compute.stage.snapshot())

    def finish(self) -> Rebuilt:
        """What the lead hears: it came out as it was, or close, or not."""
        self.told = True
        answer = replace(self.answer, bytes=self.answer.bytes + self.bytes, check={})
        expected, found = self._again.digest, self.compute.stage.digest()
        if self.aside or found == expected:
            return answer
        told, apart = self._again.tolerance, self._apart
        tolerance = self.compute.stage.tolerance if told is None else told
        if expected is not None:  # a bit differs, whatever the norms say; of no step there are none
            apart = max(apart, float_info.epsilon) if APART in self.answer.check else math.inf
        if apart > tolerance:
            why = (
                "what came out is not what was lost: norms of gradients differ by "
                f"{apart:.1e}, recovery.tolerance is {tolerance:g}"
            )
            return replace(answer, problem=why, rejected=True)
        return replace(answer, check={APART: apart} if apart else {})


def relative_difference(norm: float, other: float) -> float:
    """Of two norms, which are 0 or above; infinite if one is no number."""
    if not (math.isfinite(norm) and math.isfinite(other)):
        return math.inf
    return abs(norm - other) / max(norm, other) if norm != other else 0.0

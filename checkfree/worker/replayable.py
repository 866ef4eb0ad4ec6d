"""What a seat keeps so that stages can be replayed: its log, copies of its own versions, and those
that it holds for others; and who waits for what it sends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from checkfree.core.ops import LEAD, Address, Source, Transfer
from checkfree.messages.control import (
    WAVE,
    Begin,
    ForReplays,
    Kept,
    Outgoing,
    Purpose,
    Push,
    Resend,
    Ticket,
    Unlogged,
)
from checkfree.messages.tensors import KeepState, StageState
from checkfree.worker.log import Log, LogLost, Sent, again


class Replayable:
    """Of one seat. Nothing in it is ever written to; all but the log, which has its own place, is
    in the host's memory, which there is more of than of a GPU's."""

    def __init__(self, seat: Address, life: int, log: Log, *, shares_memory: bool = True):
        self._seat, self._life, self._shares_memory = seat, life, shares_memory
        self.log = log
        self._own: dict[int, StageState] = {}
        self._held: dict[tuple[int, int], StageState] = {}
        self._since: int | None = None
        self._waiting: dict[int, dict[Address, int]] = {}
        """By iteration, who has asked for what is not sent yet, and in which epoch. Whoever makes
        it may still be in another: it is the same."""

    # --- copies ----------------------------------------------------------------------------------

    def keep_own(self, state: StageState) -> None:
        """A version of the seat's own stage."""
        self._own[state.version] = state.in_host_memory()

    def can_push(self, order: Push) -> bool:
        """It has that version, in whatever epoch it is asked."""
        return order.version in self._own

    def push(self, order: Push) -> KeepState:
        """To another seat."""
        state = self._to_send(self._own[order.version])
        return KeepState(order.epoch, order.keep, WAVE, 0, state)

    def hold(self, message: KeepState) -> Kept:
        """For another stage, in whatever epoch it comes: it is named by its version."""
        assert isinstance(message.keep, Transfer)
        state = message.state.in_host_memory()
        self._held[message.keep.owner.stage, state.version] = state
        return Kept(message.epoch, message.keep, state.version)

    def read(self, source: Source) -> StageState | None:
        """What is held, of the seat's own stage or another, to be sent."""
        own = source.of == self._seat.stage
        place = source.of, source.version
        found = self._own.get(source.version) if own else self._held.get(place)
        return None if found is None else self._to_send(found)

    def _to_send(self, state: StageState) -> StageState:
        """It shares no memory with what is overwritten with the seat."""
        return _copied(state) if self._shares_memory else replace(state, held={}, heading={})

    # --- the log ---------------------------------------------------------------------------------

    def begin(self, plan: Begin) -> None:
        """Before an iteration: what is older than all that counts, or may, can go; and what is
        older than something that is missing, which nobody counts on."""
        self.log.trim(plan.logs)
        if plan.logs is not None:
            self.log.trim(self.log.whole_since(plan.ticket.iteration))
        self._since, self._waiting = plan.logs, {}
        if plan.logs is None:
            self._own, self._held = {}, {}
            return
        since = plan.logs
        self._own = {v: state for v, state in self._own.items() if v >= since}
        self._held = {at: state for at, state in self._held.items() if at[1] >= since}

    def go_back(self, version: int) -> None:
        """What is newer is of another course."""
        self.log.cut(version)
        self._own = {v: state for v, state in self._own.items() if v <= version}
        self._held = {at: state for at, state in self._held.items() if at[1] <= version}

    def resend(self, request: Resend, under_way: Mapping[int, Sequence[Sent]]) -> list[Outgoing]:
        """What was sent then to the stage of whoever asks; of an iteration that is ``under_way``
        once more what there is of it. And the rest as it comes: a log may be whole for this seat
        and yet lack what a replica sent, which it is about to compute. Where a log can't be read
        the lead is told, to plan without it."""
        ticket = Ticket(request.epoch, request.iteration, Purpose.REPLAY)
        waiting = self._waiting.setdefault(request.iteration, {})
        waiting[request.reply_to] = max(request.epoch, waiting.get(request.reply_to, -1))
        try:
            logged = self.log.of(request.iteration, request.reply_to.stage)
        except LogLost as lost:
            return [(LEAD, Unlogged(self._seat, self._life, lost.since))]
        sent = (*logged, *under_way.get(request.iteration, ()))
        return [*again(sent, request.reply_to, ticket)]

    def sent_again(self, iteration: int, sent: Sequence[Sent]) -> list[Outgoing]:
        """What a replay has just made, for all who wait for it."""
        return [
            out
            for seat, epoch in sorted(self._waiting.get(iteration, {}).items())
            for out in again(sent, seat, Ticket(epoch, iteration, Purpose.REPLAY))
        ]

    def standing(self, version: int, reached: int | None) -> ForReplays:
        """For a new lead, with the stage at ``version``."""
        held = tuple(sorted(self._held))
        log = self.log.whole_since(version)
        own = tuple(sorted(self._own))
        return ForReplays(log, self._since, own, held, reached, self.log.bytes)

    def destroy(self) -> None:
        """Lost means lost. What was sent may be others' memory, too, or on its way: that is merely
        let go."""
        if self._shares_memory:
            for state in (*self._own.values(), *self._held.values()):
                state.destroy()
        self._own, self._held = {}, {}
        self.log.trim(None)


def _copied(state: StageState) -> StageState:
    """All that it is, in memory of its own."""
    params, buffers, moments = (
        {name: tensor.clone() for name, tensor in group.items()}
        for group in (state.params, state.buffers, state.moments)
    )
    return replace(state, params=params, buffers=buffers, moments=moments, held={}, heading={})

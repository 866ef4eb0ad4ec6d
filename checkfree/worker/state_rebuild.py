"""A seat that becomes what the strategy makes of others' states: who is asked, what they answered,
and whether the outcome is any good. What came from elsewhere is looked at before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from checkfree.core.ops import Address, Source
from checkfree.core.units import derive
from checkfree.messages.control import (
    CHECKPOINT,
    HANDOVER,
    RESUME,
    SNAPSHOT,
    BoundaryRequest,
    Outgoing,
    Rebuild,
    Rebuilt,
    StateRequest,
)
from checkfree.messages.tensors import BoundaryReply, StageState, StateReply, tensor_bytes
from checkfree.recovery.fit.boundary import pairs_of
from checkfree.recovery.fit.local_steps import fit_and_judge
from checkfree.recovery.rungs import REPLAY, WAVE
from checkfree.recovery.shadow.ahead import moved_on
from checkfree.recovery.shadow.references import HELD
from checkfree.recovery.strategy import Rebuilding, taken_whole
from checkfree.stage import body_part
from checkfree.stage.learnt import in_types_of, real, without
from checkfree.worker.compute import Compute
from checkfree.worker.context import WorkerContext
from checkfree.worker.inspection import infinite, problems_of


class StateRebuild:
    """One rebuild, from its order to the answer."""

    def __init__(self, order: Rebuild, address: Address, compute: Compute, context: WorkerContext):
        self.order, self.compute = order, compute
        self._address, self._stage = address, compute.stage
        self._context = context
        self._states: dict[Source, StateReply] = {}
        self._boundaries: dict[Address, BoundaryReply] = {}
        self.restored: StageState | None = None
        """What a replay begins with, once the stage is that, if nothing of a snapshot lacks."""

    def requests(self) -> list[Outgoing]:
        """To the holders of what it is made of, and of what it is judged by."""
        order, recipe, to = self.order, self.order.recipe, self._address
        area = {HANDOVER: HANDOVER, SNAPSHOT: RESUME}.get(recipe.rule, CHECKPOINT)
        area = area if order.again is None else order.again.area
        out: list[Outgoing] = [
            (source.holder, StateRequest(order.epoch, to, source, recipe.moments, area))
            for source in recipe.sources
        ]
        for seat in recipe.boundary:
            out.append((seat, BoundaryRequest(order.epoch, to, to.stage, recipe.pairs)))
        return out

    def deliver(self, message: StateReply | BoundaryReply) -> bool:
        """An answer. False: nobody asked for it."""
        recipe = self.order.recipe
        if message.epoch != self.order.epoch:
            return False
        match message:
            case StateReply(source=source) if source in recipe.sources:
                self._states[source] = message
            case BoundaryReply(sender=sender) if sender in recipe.boundary:
                self._boundaries[sender] = message
            case _:
                return False
        return True

    def answered(self) -> bool:
        """All whom it asked have."""
        recipe = self.order.recipe
        asked = len(set(recipe.sources)), len(set(recipe.boundary))
        return (len(self._states), len(self._boundaries)) == asked

    def finish(self) -> Rebuilt:
        """Make it, and judge it. With a problem, the stage is as it was or worth nothing."""
        order = self.order
        answer = Rebuilt(order.epoch, order.life, self._address)
        replies = [self._states[source] for source in order.recipe.sources]
        states = {reply.source: reply.state for reply in replies if reply.state is not None}
        missing = [reply for reply in replies if reply.state is None]
        if missing:
            bad = tuple(reply.source for reply in missing)
            return replace(answer, problem=missing[0].problem, bad=bad)
        if wrong := self._problems(states):
            return replace(answer, problem="; ".join(wrong.values()), bad=tuple(wrong))
        whole = taken_whole(self._address.stage, states)
        if not whole:  # a rule is given what is learnt alone
            states = {s: real(without(was, self._stage.constants)) for s, was in states.items()}
        if order.recipe.ahead:
            states, wrong = _moved_on(states, order.recipe.ahead)
            if wrong := wrong or self._problems(states):
                return replace(answer, problem="; ".join(wrong.values()), bad=tuple(wrong))
        made = self._made(states)
        begins = order.resume_at if order.again is None else order.again.start
        state = replace(made.state, version=begins)
        if not whole:
            learnt = without(state, self._stage.constants)
            state = replace(learnt, params=in_types_of(self._stage.params, learnt.params))
            if problem := infinite(state.params):
                problem = f"of what {order.recipe.rule} makes, {problem}"
                return replace(answer, problem=problem, bad=tuple(states))
        try:
            self._stage.restore(state)
        except ValueError as error:  # of a strategy from outside, which no other source would mend
            return replace(answer, problem=f"{order.recipe.rule}: {error}")
        if self._copied is not None and self._stage.digest() != self._copied:
            problem = f"the copy of version {begins} is not what was copied"
            return replace(answer, problem=problem, bad=tuple(states))
        if order.again is not None and self._stage.is_whole(state):
            self.restored = replace(state, held={}, heading={})
        figures, problem = self._judged()
        if problem:
            return replace(answer, problem=problem, rejected=True, check=figures)
        came = [reply for reply in replies if reply.source.holder != self._address]
        moved = sum(map(tensor_bytes, (*came, *self._boundaries.values())))
        return replace(answer, weights=made.weights, bytes=moved, check=figures)

    @property
    def _copied(self) -> int | None:
        """The sum that what it begins with has to have, if it is known."""
        return None if self.order.again is None else self.order.again.copied

    def shadow(self) -> tuple[Address, StageState] | None:
        """What it was made of, if that was its own shadow in numbers that a holder has too: so the
        next one can be a change of that."""
        for source, reply in self._states.items():  # a shadow comes alone
            state, own = reply.state, source.of == self._address.stage
            if own and state is not None and state.packed == HELD:
                return source.holder, state
        return None

    def _problems(self, states: Mapping[Source, StageState]) -> dict[Source, str]:
        """Of those that are no good to become what this seat is. Where a sum is known, it tells
        more of their numbers than these do."""
        stage, strangers = self._address.stage, self._context.strangers
        summed = self._copied is not None
        return problems_of(states, self._stage, stage, strangers=strangers, summed=summed)

    def _made(self, states: Mapping[Source, StageState]) -> Rebuilding:
        """What the rule makes of them."""
        order, context, stage = self.order, self._context, self._address.stage
        if order.recipe.rule in (SNAPSHOT, REPLAY, WAVE) and not states:
            # As the run began: from (seed, "init", stage).
            return Rebuilding(context.make(stage, stage).snapshot())
        fresh = partial(context.fresh, stage, order.tick)
        return context.strategy.rebuild(self._address, fresh, states)

    def _judged(self) -> tuple[dict[str, float], str]:
        """Fitted, if that is asked for: figures, and what is wrong."""
        order, stage = self.order, self._stage
        boundaries = [self._boundaries[seat] for seat in order.recipe.boundary]
        read, context = self._context.casting.read, self._context
        seed = derive(context.seed, "fit", self._address.stage, order.tick)
        try:
            pairs = [
                (
                    read(x, stage.dtype).to(stage.dtype),
                    read(y, stage.dtype).to(stage.dtype),
                    body_part(x.hop, context.body_stages, stage.chunks),
                )
                for x, y in pairs_of(boundaries)
            ]
            figures, problem = fit_and_judge(stage, order.recipe, pairs, context.fit_lr, seed)
        except (ValueError, RuntimeError) as error:
            return {}, f"what its neighbours hold does not fit it: {str(error).splitlines()[0]}"
        if not problem and order.recipe.fit:
            learnt = {n: p for n, p in stage.params.items() if n not in stage.constants}
            if why := infinite(learnt):
                problem = f"fitted, {why}"
        return figures, problem


def _moved_on(
    states: Mapping[Source, StageState], iterations: float
) -> tuple[dict[Source, StageState], dict[Source, str]]:
    """All of them, and what is wrong with those that can't be: who sent one of those may have
    sent other weights as well."""
    made, wrong = {}, {}
    for source, state in states.items():
        try:
            made[source] = moved_on(state, iterations)
        except (ValueError, RuntimeError) as error:
            why = str(error).splitlines()[0]
            wrong[source] = f"the state from {source}: it can't be moved on: {why}"
    return made, wrong

"""A worker drops what no honest peer sends, counts it, and goes on when the right thing comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from checkfree.core.config import RecoveryConfig
from checkfree.core.ops import LEAD, STORE, Address, Kind, Mirror, Op, Recipe, Source, Upload
from checkfree.messages.control import (
    RESUME,
    Abort,
    Begin,
    Kept,
    Message,
    Push,
    Rebuild,
    Ticket,
)
from checkfree.messages.tensors import (
    Activation,
    BoundaryReply,
    Gradient,
    KeepGradient,
    KeepState,
    Share,
    StageState,
    StateReply,
)
from checkfree.recovery.wrappers import make_strategy
from checkfree.worker import StageWorker
from checkfree.worker.reorder_buffer import MOST, ReorderBuffer
from tests.tiny import WIDTH, Run, make, worker_context

ONE = Address(1)
T = Ticket(0, 2)


def play(
    recovery: str, change: Callable[[Message], Message | None], replicas: int = 1
) -> tuple[Run, Run]:
    """A run, and the same with a stray message before each that ``change`` makes one of."""
    runs = []
    for stray in (False, True):
        run = make(make_strategy(RecoveryConfig(recovery)), stages=3, replicas=replicas)
        if stray:
            _disturb(run, change)
        run.runtime.run()
        assert run.lead.done, run.lead.phase
        runs.append(run)
    return runs[0], runs[1]


def _disturb(run: Run, change: Callable[[Message], Message | None]) -> None:
    for seat in run.lead.members.alive:
        worker: Any = run.runtime.actors[seat]
        honest = worker.deliver

        def deliver(message: Message, worker: Any = worker, honest: Any = honest) -> None:
            bad = change(message) if worker.stage.version else None  # who knows no shape can't tell
            if bad is not None:
                honest(bad)
                while worker.advance() == []:
                    pass
            honest(message)

        worker.deliver = deliver


def wide(message: Any, of: type) -> Message | None:
    if not isinstance(message, of):
        return None
    changed: Any = message
    return replace(changed, tensor=torch.zeros(3, WIDTH + 1))


def renamed(message: Any, of: type) -> Message | None:
    changed: Any = message
    return replace(changed, tensors={"other": torch.zeros(2)}) if isinstance(message, of) else None


def of_no_op(message: Any, of: type) -> Message | None:
    changed: Any = message
    return replace(changed, microbatch=10**6) if isinstance(message, of) else None


def whole_numbers(message: Any, of: type) -> Message | None:
    if not isinstance(message, of):
        return None
    changed: Any = message
    return replace(changed, tensor=torch.zeros(3, WIDTH, dtype=torch.int64))


@pytest.mark.parametrize(
    ("recovery", "replicas", "change", "of"),
    [
        ("checkfree", 1, wide, Activation),
        ("checkfree", 1, whole_numbers, Activation),
        ("checkfree", 1, of_no_op, Activation),
        ("checkfree", 1, wide, Gradient),
        ("checkfree", 1, whole_numbers, Gradient),
        ("checkfree", 1, of_no_op, Gradient),
        ("checkfree", 2, renamed, Share),
        ("redundant", 1, renamed, KeepGradient),
    ],
)
def test_what_is_no_good_changes_nothing(
    recovery: str, replicas: int, change: Callable[[Any, type], Message | None], of: type
) -> None:
    plain, run = play(recovery, lambda message: change(message, of), replicas)
    assert run.losses() == plain.losses()
    workers = [run.runtime.actors[seat] for seat in run.lead.members.alive]
    assert sum(getattr(worker, "dropped", 0) for worker in workers) > 3


def test_what_it_is_told_is_seen_until_it_is_done() -> None:
    """So that one that hangs then, as while the lead has states stored, is found to be at fault."""
    worker = StageWorker(ONE, 0, worker_context(0, make_strategy(RecoveryConfig("redundant"))))
    assert worker.doing is None
    worker.deliver(Push(0, Upload(ONE), 0, RESUME, 0))
    assert worker.doing is not None
    assert worker.doing[1:] == (None, ONE)
    assert [to for to, _ in worker.advance() or ()] == [STORE]
    assert worker.doing is None


def test_a_state_to_keep_is_looked_at() -> None:
    made = worker_context(0, make_strategy(RecoveryConfig("redundant")))
    worker, keep = StageWorker(ONE, 0, made), Mirror(Address(2), ONE)
    good = made.make(2, 2).snapshot()
    bad = replace(good, params={"other": torch.zeros(1)})
    for state, answered in ((bad, False), (good, True)):
        worker.deliver(KeepState(0, keep, "", 0, state))
        out = worker.advance() or []
        assert [type(message) for _, message in out] == [Kept] * answered
    assert worker.dropped == 1


# --- memory --------------------------------------------------------------------------------------


def activation(ticket: Ticket, microbatch: int = 0) -> Activation:
    return Activation(ticket, microbatch, 1, torch.zeros(3, WIDTH))


def begun(worker: StageWorker, ticket: Ticket) -> int:
    """How many activations the worker has for its first op when it begins."""
    worker.deliver(Begin(ticket, ((0, 1, 2),), {ONE: (Op(Kind.FORWARD, 0, 1),)}))
    worker.advance()
    assert worker._attempt is not None
    return len(worker._attempt.activations)


def test_what_a_stranger_says_of_a_later_time_pushes_nothing_out() -> None:
    worker = StageWorker(ONE, 0, worker_context(0, make_strategy(RecoveryConfig("checkfree"))))
    for ticket in (Ticket(9, 0), T, Ticket(0, 10**6), Ticket(0, 3)):
        worker.deliver(activation(ticket))
    assert [begun(worker, T), begun(worker, Ticket(0, 3)), begun(worker, Ticket(1, 3))] == [1, 1, 0]
    assert worker.dropped == 0


def test_when_one_begins_the_older_are_forgotten() -> None:
    early, newer = ReorderBuffer(), Ticket(1, 2)
    assert not early.file(activation(T)) and not early.file(activation(newer))
    (held,) = early.take(newer)
    assert held.ticket == newer
    assert early.take(T) == early.take(newer) == []


def test_no_more_than_a_plan_can_need() -> None:
    early, later = ReorderBuffer(), Ticket(9, 0)
    assert not any(early.file(activation(T, m)) for m in range(MOST - 2))
    assert not any(early.file(activation(later, m)) for m in range(2))
    assert early.file(activation(later, 2)) == 1
    assert early.file(activation(T, MOST - 2)) == 2  # what is to begin first stays
    assert early.take(later) == [] == early.take(T)


def test_an_abort_passes_what_came_early() -> None:
    worker = StageWorker(ONE, 0, worker_context(0, make_strategy(RecoveryConfig("checkfree"))))
    worker.deliver(activation(T))
    worker.deliver(Abort(1))
    worker.advance()
    assert worker._early.take(T) == []


def test_what_a_newer_begin_has_passed_is_gone() -> None:
    worker = StageWorker(ONE, 0, worker_context(0, make_strategy(RecoveryConfig("checkfree"))))
    worker.deliver(activation(T))
    worker.deliver(Begin(Ticket(1, 0), (), {}))
    worker.advance()
    assert worker._early.take(T) == []


# --- rebuilds ------------------------------------------------------------------------------------


def rebuilding() -> tuple[StageWorker, StageState]:
    """Asked one neighbour for its state, and two for what crossed."""
    made = worker_context(0, make_strategy(RecoveryConfig("fit")))
    worker = StageWorker(Address(2), 1, made, uninitialized=True)
    recipe = Recipe(
        "fitted average", (Source(ONE, 1, 5),), boundary=(ONE, Address(3)), pairs=2, fit=1
    )
    worker.deliver(Rebuild(7, 1, recipe, 5, 5))
    worker.advance()
    return worker, replace(made.make(1, 1).snapshot(), version=5)


def test_answers_that_nobody_asked_for_do_not_count() -> None:
    worker, state = rebuilding()
    worker.deliver(StateReply(7, Source(STORE, 2, 5), state))
    worker.deliver(BoundaryReply(7, Address(0), 2))
    assert [worker.advance(), worker.advance(), worker.advance()] == [[], [], None]
    assert worker.dropped == 2


def test_what_does_not_fit_is_told_and_the_next_rule_tried() -> None:
    worker, state = rebuilding()
    inputs, outputs = (
        tuple(replace(activation(T, m), hop=hop, tensor=torch.zeros(3, 9)) for m in range(2))
        for hop in (2, 3)
    )
    worker.deliver(StateReply(7, Source(ONE, 1, 5), state))
    worker.deliver(BoundaryReply(7, ONE, 2, inputs, ()))
    worker.deliver(BoundaryReply(7, Address(3), 2, (), outputs))
    ((to, answer),) = [pair for out in iter(worker.advance, None) for pair in out]
    assert to == LEAD
    assert answer.rejected and "does not fit" in answer.problem  # type: ignore[attr-defined]

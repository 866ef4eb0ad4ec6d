"""No strategy can read what died: its storage is NaN before anything is planned, and nothing that
was sent before shares it. Each check is shown to catch what it is for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tests.tiny as tiny
from checkfree.core.config import RecoveryConfig
from checkfree.core.ops import Address, Refusal, Repair, Source, View
from checkfree.messages.control import Message, Outgoing
from checkfree.messages.tensors import KeepGradient, KeepState, StageState, StateReply, tensors_of
from checkfree.recovery.registry import STRATEGIES
from checkfree.recovery.wrappers import ReplicaFirst, make_strategy
from checkfree.runtime.faults import Faults
from checkfree.runtime.inprocess import InProcess
from checkfree.stage import Stage
from checkfree.worker import StageWorker, WorkerContext


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def tensors_in(thing: Any, seen: set[int] | None = None) -> Iterator[Tensor]:
    """Every tensor that can be reached from an object, gradients and optimizer state too."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, (WorkerContext, type)):
        return
    seen.add(id(thing))
    inner: Iterable[Any] = ()
    if isinstance(thing, Tensor):
        yield thing
        inner = (thing.grad if thing.is_leaf else None,)
    elif isinstance(thing, Mapping):
        inner = (*thing.keys(), *thing.values())
    elif isinstance(thing, (list, tuple, set, frozenset, deque)):
        inner = thing
    elif hasattr(thing, "__dict__"):
        inner = vars(thing).values()
    for one in list(inner):
        yield from tensors_in(one, seen)


def dying(worker: StageWorker) -> list[Tensor]:
    """What must be overwritten: the worker's stage, the copies and shadows that it holds, and what
    it knows of those that others hold. What it had sent is theirs, too."""
    exact = worker.replayable._own
    return list(tensors_in([worker.stage, worker.copies, worker.shadows, worker.pushes, exact]))


def is_gone(tensor: Tensor) -> bool:
    return bool((tensor.isnan() if tensor.is_floating_point() else tensor == 0).all())


def share_memory(one: Tensor, other: Tensor) -> bool:
    spans = []
    for tensor in (one, other):
        storage = tensor.untyped_storage()
        spans.append((storage.data_ptr(), storage.data_ptr() + storage.nbytes()))
    return max(spans[0][0], spans[1][0]) < min(spans[0][1], spans[1][1])


class Grave:
    """Host of Faults that looks at each worker just before it dies, and after."""

    def __init__(self, runtime: InProcess, sent: list[Message]):
        self.runtime, self.sent = runtime, sent
        self.buried: list[Tensor] = []

    def kill(self, seat: Address) -> int:
        worker = self.runtime.actors[seat]
        assert isinstance(worker, StageWorker)
        doomed = dying(worker)
        for message in self.sent:
            for tensor in tensors_of(message):
                name = type(message).__name__
                assert not any(share_memory(tensor, dead) for dead in doomed), f"{name} {seat}"
        self.buried += doomed
        self.buried += tensors_in(worker.replayable._held)  # each came in a message of its own
        return self.runtime.kill(seat)

    def join(self, seat: Address, life: int) -> None:
        self.runtime.join(seat, life)


class Spy(ReplicaFirst):
    """Looks at the graves whenever a repair is planned."""

    planned = 0
    graves: Grave

    def repair(
        self, lost: frozenset[Address], view: View, refused: frozenset[Source]
    ) -> Repair | Refusal:
        self.planned += 1
        assert self.graves.buried, "nobody died"
        assert all(is_gone(tensor) for tensor in self.graves.buried), f"{lost} can be read"
        return super().repair(lost, view, refused)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """Every message that a worker sends, in order; holding them keeps their memory from reuse."""
    messages: list[Message] = []
    advance = StageWorker.advance

    def recording(self: StageWorker) -> list[Outgoing] | None:
        out = advance(self)
        messages.extend(message for _, message in out or ())
        return out

    monkeypatch.setattr(StageWorker, "advance", recording)
    return messages


LOSSES: dict[str, dict[int, Collection[str]]] = {
    "auto": {9: ["2.0", "2.1"], 10: ["3.0", "3.1", "4.0", "4.1"], 11: ["0.0", "0.1"]},
    "shadow": {9: ["2.0", "2.1", "4.0", "4.1"], 10: ["0.0", "0.1"]},
    "fit": {2: ["2.0", "2.1"], 4: ["1.0", "1.1"], 6: ["3.0", "3.1", "4.0", "4.1"]},
    "none": {2: ["2.1"], 3: ["2.1", "0.0"], 4: ["2.0"]},
    "checkfree": {2: ["2.0", "2.1"], 3: ["3.0", "2.1"], 4: ["2.0", "2.1"]},
    "checkfree_plus": {2: ["0.0", "0.1", "3.0", "3.1"], 3: ["1.0", "1.1"]},
    "checkpoint": {2: ["2.0", "2.1"], 3: ["0.0", "0.1", "2.0", "2.1", "3.0"]},
    "replay": {4: ["2.0", "2.1"], 7: ["3.0", "3.1", "4.0", "4.1"], 8: ["0.0", "0.1", "2.1"]},
    "redundant": {2: ["2.0", "2.1", "4.0"], 3: ["0.0", "0.1"]},
    "random": {2: ["2.0", "2.1", "0.0", "0.1"]},
    "zero": {2: ["2.0", "2.1", "3.0", "3.1"]},
    "copy": {2: ["1.0", "1.1"], 3: ["4.0", "4.1"]},
    "uniform": {2: ["2.0", "2.1"], 3: ["3.0", "3.1"]},
}


OPTIONS: dict[str, dict[str, Any]] = {"shadow": {"shadow_format": "signs", "shadow_every": 5}}


def play(name: str, sent: list[Message]) -> tuple[tiny.Run, Spy]:
    config = RecoveryConfig(name=name, interval=2, optimizer="average", **OPTIONS.get(name, {}))
    spy = Spy(make_strategy(config))

    def faults(runtime: InProcess) -> Faults:
        spy.graves = Grave(runtime, sent)
        return Faults(spy.graves, lambda tick: map_seats(LOSSES[name].get(tick, ())))

    terms = {"iterations": 2 + max(LOSSES[name]), "microbatches": 4}
    made = tiny.make(spy, stages=4, replicas=2, terms=terms, faults=faults)
    made.runtime.run()
    return made, spy


def map_seats(seats: Iterable[str]) -> list[Address]:
    return [Address.parse(seat) for seat in seats]


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_died_is_nan_when_a_repair_is_planned(name: str, sent: list[Message]) -> None:
    made, spy = play(name, sent)
    assert made.lead.done, made.lead.failure
    assert spy.planned >= len(LOSSES[name])
    assert any(isinstance(message, (KeepState, StateReply)) for message in sent) or name in (
        "random",
        "zero",
    )
    for seat, state in made.states().items():
        assert all(t.isfinite().all() for _, t in state.tensors()), seat


def test_all_of_a_worker_dies_its_copies_and_moments_too() -> None:
    made = tiny.make(make_strategy(RecoveryConfig(name="redundant")), stages=2)
    made.runtime.run()
    worker = made.runtime.actors[Address(1)]
    assert isinstance(worker, StageWorker)
    held = [worker.stage, *worker.copies.values()]
    states = [t for stage in held for _, t in stage.snapshot().tensors()]
    worker.stage.set_gradients({n: p.clone() for n, p in worker.stage.module.named_parameters()})
    doomed = dying(worker)
    assert len(doomed) >= len(states) + 2 == 2 * (2 + 6) + 2
    assert not any(map(is_gone, doomed))
    worker.destroy()
    assert all(map(is_gone, doomed))


# --- in the middle of an iteration ---------------------------------------------------------------

KEEPS_AND_REPLIES = (KeepState, StateReply, KeepGradient)


def mortal(worker: StageWorker) -> list[Tensor]:
    """Modules with their gradients, and optimizers; not the activations of the moment."""
    stages = (worker.stage, *worker.copies.values())
    parts = [part for stage in stages for part in vars(stage).values()]
    return list(tensors_in([p for p in parts if isinstance(p, (nn.Module, torch.optim.Optimizer))]))


@dataclass
class Strike:
    """Kills one worker after so many deliveries, and seats another."""

    run: tiny.Run
    deliveries: int
    sent: list[Message]
    shared: list[str] = field(default_factory=list)
    struck: bool = False

    def __call__(self, to: Address, message: Message) -> None:
        runtime = self.run.runtime
        if runtime.delivered != self.deliveries:
            return
        seat = (Address(0), Address(1), Address(4))[self.deliveries % 3]
        worker = runtime.actors[seat]
        assert isinstance(worker, StageWorker)
        doomed = mortal(worker)
        for one in self.sent:
            if isinstance(one, KEEPS_AND_REPLIES) and any(
                share_memory(tensor, dead) for tensor in tensors_of(one) for dead in doomed
            ):
                self.shared.append(type(one).__name__)
        life = runtime.kill(seat)
        assert all(map(is_gone, doomed))
        runtime.join(seat, life + 1)
        self.struck = True


@pytest.mark.parametrize("name", ["redundant", "checkfree_plus", "checkpoint"])
def test_whenever_it_dies_no_keep_or_reply_shares_its_memory(
    name: str, sent: list[Message]
) -> None:
    kinds = set()
    for deliveries in range(3, 150, 7):
        sent.clear()
        made = tiny.make(make_strategy(RecoveryConfig(name=name, interval=2)), replicas=2)
        strike = Strike(made, deliveries, sent)
        made.runtime.run(strike)
        kinds |= set(map(type, sent))
        assert strike.struck and strike.shared == []
        assert made.lead.done, (deliveries, made.lead.failure)
    assert {KeepState, StateReply} <= kinds and (name == "checkpoint" or KeepGradient in kinds)


# --- the checks can fail -------------------------------------------------------------------------


class ForgetsToClone(Stage):
    """A stage whose snapshot is itself."""

    def snapshot(self, *, moments: bool = True) -> StageState:
        own = {name: param.detach() for name, param in self.module.named_parameters()}
        return replace(super().snapshot(moments=moments), params=own)


class Adopts(Stage):
    """A stage that takes a restored state's tensors for its own."""

    def restore(self, state: StageState) -> None:
        super().restore(state)
        for name, param in self.module.named_parameters():
            param.data = state.params[name]


class ForgetsToDie(Stage):
    """A stage that is destroyed but for its moments."""

    def destroy(self) -> None:
        for param in self.module.parameters():
            nn.init.constant_(param, float("nan"))


@pytest.mark.parametrize(
    ("bad", "name", "seen"),
    [
        (ForgetsToClone, "none", "StateReply"),
        (ForgetsToClone, "redundant", "KeepState"),
        (Adopts, "none", "StateReply"),
        (Adopts, "redundant", "KeepState"),
        (ForgetsToDie, "redundant", "can be read"),
        (ForgetsToDie, "checkfree", "can be read"),
    ],
)
def test_a_stage_that_shares_or_stays_is_caught(
    bad: Callable[..., Stage],
    name: str,
    seen: str,
    sent: list[Message],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tiny, "Stage", bad)
    with pytest.raises(AssertionError, match=seen):
        play(name, sent)


# --- nothing is held for longer than needed -------------------------------------------------------


def test_a_rebuilt_worker_lets_go_of_what_it_was_made_of() -> None:
    made = tiny.make(
        make_strategy(RecoveryConfig(name="checkfree")),
        strikes=lambda tick: [Address(2)] if tick == 1 else [],
    )
    made.runtime.run()
    worker = made.runtime.actors[Address(2)]
    assert isinstance(worker, StageWorker)
    own = {id(tensor) for tensor in dying(worker)}
    assert [tensor.shape for tensor in tensors_in(worker) if id(tensor) not in own] == []

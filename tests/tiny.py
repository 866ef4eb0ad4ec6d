"""A pipeline of a few dozen parameters, to test what carries messages and not what computes."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from checkfree.core.ops import FAULTS, LEAD, LOG, STORE, Address
from checkfree.core.records import Record
from checkfree.core.units import derive
from checkfree.lead import Lead, Progress, Terms
from checkfree.lead.membership import Membership
from checkfree.messages.control import Message, Note, Outgoing, Purpose, Underway
from checkfree.messages.tensors import StageState
from checkfree.models.chunks import Chunks
from checkfree.models.two_chunks import TwoChunks
from checkfree.pipeline import TWICE, one_f_one_b
from checkfree.recovery.strategy import Strategy
from checkfree.runtime.disk_log import DiskLog
from checkfree.runtime.faults import Faults
from checkfree.runtime.inprocess import InProcess
from checkfree.runtime.store import Store
from checkfree.stage import CPU, Conditions, Stage, seeded
from checkfree.worker import StageWorker, WorkerContext
from checkfree.worker.log import SentLog

WIDTH = 4


class Edge(nn.Module):
    """Stage 0 of the tiny pipeline."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Linear(WIDTH, WIDTH)
        self.outward = nn.Linear(WIDTH, 1)

    def embed(self, batch: Tensor) -> Tensor:
        return self.inward(batch)

    def loss(self, hidden: Tensor, batch: Tensor) -> Tensor:
        return ((self.outward(hidden).squeeze(-1) - batch.sum(-1)) ** 2).mean()


class Body(nn.Module):
    """A residual layer."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.dropout(torch.tanh(self.inner(hidden)))


def batches(seed: int, purpose: str) -> Callable[[int, int], Tensor]:
    def batch(iteration: int, microbatch: int) -> Tensor:
        of = iteration if purpose == "train" else 0
        generator = torch.Generator().manual_seed(derive(seed, purpose, of, microbatch))
        return torch.randn(3, WIDTH, generator=generator)

    return batch


def module(seed: int, purpose: str, stage: int, tick: int = 0, dropout: float = 0.1) -> nn.Module:
    with seeded(derive(seed, purpose, stage, tick), CPU):
        return Edge() if stage == 0 else Body(dropout)


def worker_context(
    seed: int, strategy: Strategy, dropout: float = 0.1, chunks: Chunks = Chunks.WHOLE
) -> WorkerContext:
    conditions = Conditions(
        optimizer=lambda params: torch.optim.Adam(params, lr=0.01), lr=lambda iteration: 0.01
    )

    def stage_of(purpose: str, stage: int, tick: int, dropout: float) -> Stage:
        made = module(seed, purpose, stage, tick, dropout)
        if stage and chunks.count > 1:
            made = TwoChunks(made, module(seed, purpose, -stage, tick, dropout))
        return Stage(made, conditions)

    return WorkerContext(
        seed,
        lambda stage, host: stage_of("init", stage, 0, dropout),
        lambda stage, tick: stage_of("reinit", stage, tick, 0.1).snapshot(),
        strategy,
        {Purpose.TRAIN: batches(seed, "train"), Purpose.VALIDATE: batches(seed, "validation")},
        strangers=True,
        chunks=chunks,
    )


def chunks_of(schedule: Callable[..., Any]) -> Chunks:
    """Of a body stage, where one of ours makes schedules."""
    return TWICE.get(getattr(schedule, "__name__", ""), Chunks.WHOLE)


@dataclass
class MemoryFiles:
    """The store's file port, in a dict."""

    data: dict[str, bytes] = field(default_factory=dict)

    def write(self, name: str, data: bytes) -> None:
        self.data[name] = data

    def read(self, name: str, limit: int) -> bytes:
        if name not in self.data:
            raise FileNotFoundError(name)
        return self.data[name]

    def open(self, name: str) -> BinaryIO:
        return io.BytesIO(self.read(name, 0))

    def names(self, folder: str) -> list[str]:
        inside = (n[len(folder) + 1 :] for n in self.data if n.startswith(folder + "/"))
        return sorted({name.split("/")[0] for name in inside})

    def remove(self, folder: str) -> None:
        for name in [n for n in self.data if n.startswith(folder + "/")]:
            del self.data[name]


@dataclass
class Log:
    """Keeps the records it is sent."""

    notes: dict[int, Record] = field(default_factory=dict)
    underway: list[Underway] = field(default_factory=list)

    @property
    def records(self) -> list[Record]:
        """In the order in which the lead wrote them, however they arrived."""
        return [self.notes[number] for number in sorted(self.notes)]

    def deliver(self, message: Message) -> None:
        assert isinstance(message, (Note, Underway))
        if isinstance(message, Note):
            self.notes[message.number] = message.record
        else:
            self.underway.append(message)

    def advance(self) -> list[Outgoing] | None:
        return None


@dataclass
class Run:
    """A tiny run and all that it left."""

    lead: Lead
    runtime: InProcess
    log: Log
    store: Store
    files: MemoryFiles

    def losses(self) -> list[tuple[int, int, float]]:
        found = self.of_kind("iteration")
        return [(record.tick, record.iteration, record.loss) for record in found]

    def of_kind(self, kind: str) -> list[Any]:
        return [record for record in self.log.records if record.kind == kind]

    def states(self) -> dict[str, StageState]:
        """Of the members, by seat."""
        found = {}
        for seat in sorted(self.lead.members.alive & self.runtime.actors.keys()):
            worker = self.runtime.actors[seat]
            assert isinstance(worker, StageWorker)
            found[str(seat)] = worker.stage.snapshot()
        return found


def make(
    strategy: Strategy,
    *,
    stages: int = 4,
    replicas: int = 1,
    seed: int = 0,
    terms: dict[str, Any] | None = None,
    strikes: Callable[[int], Any] = lambda tick: (),
    pick: Callable[[int], int] | None = None,
    progress: Progress | None = None,
    files: MemoryFiles | None = None,
    dropout: float = 0.1,
    faults: Callable[[InProcess], Any] | None = None,
    sent: Callable[[], SentLog | DiskLog] = SentLog,
) -> Run:
    """A run that has not begun: call ``run.runtime.run()``. ``sent`` makes the logs of seats."""
    seats = [Address(s, r) for s in range(stages + 1) for r in range(replicas)]
    rules = replace(Terms(iterations=3, microbatches=4, schedule=one_f_one_b), **(terms or {}))
    rules = replace(rules, chunks=chunks_of(rules.schedule))
    context = worker_context(seed, strategy, dropout, rules.chunks)
    made = replace(context, log=sent, body_stages=stages)
    log, files = Log(), files or MemoryFiles()
    store = Store(files)
    lead = Lead(Membership(seats), strategy, rules, progress or Progress())
    actors: dict[Address, Any] = {s: StageWorker(s, 0, made) for s in seats}
    runtime = InProcess(
        actors | {LEAD: lead, LOG: log, STORE: store},
        lambda seat, life: StageWorker(seat, life, made, uninitialized=True),
        pick,
    )
    runtime.actors[FAULTS] = faults(runtime) if faults else Faults(runtime, strikes)
    return Run(lead, runtime, log, store, files)


def same_states(one: dict[str, StageState], other: dict[str, StageState]) -> bool:
    """Bit for bit, moments included."""
    if one.keys() != other.keys():
        return False
    for seat in one:
        pairs = dict(one[seat].tensors()), dict(other[seat].tensors())
        if pairs[0].keys() != pairs[1].keys():
            return False
        if not all(torch.equal(pairs[0][name], pairs[1][name]) for name in pairs[0]):
            return False
    return True

"""What is under way does not change, whatever becomes of who sent it: trained on, replaced, or lost
and overwritten."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import checkfree
from checkfree.core.ops import Address
from checkfree.core.records import of_kind
from checkfree.messages import codec
from checkfree.messages.control import Message, Outgoing
from checkfree.messages.tensors import StateReply, tensor_bytes
from checkfree.runtime.actor import Actor
from checkfree.runtime.inprocess import InProcess, Mortal
from checkfree.session import assemble
from checkfree.stage.digest import digest
from checkfree.worker import StageWorker, WorkerContext
from checkfree.worker.replayable import Replayable
from tests.contract.small import text, trace

TREE: dict[str, Any] = {
    "iterations": 12,
    "stages": 3,
    "microbatches": 2,
    "batch": 1,
    "model": {"width": 16, "heads": 2, "hidden": 32, "blocks": 3, "context": 16},
    "failures": {"scenario": "none"},
    "validation": {"every": 0},
    "resume": {"every": 0},
    "recovery": {"name": "replay", "wave_lag": 1, "wave_every": 2, "copies": 2},
}
HITS = ((3, 2), (5, 0), (6, 2), (7, 1), (7, 3), (8, 2), (10, 1), (10, 2))


def tensors(value: Any, name: str = "") -> list[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        return [(name, value)]
    if isinstance(value, Mapping):
        return [pair for key, one in value.items() for pair in tensors(one, f"{name}/{key}")]
    if is_dataclass(value):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        return tensors(parts, name)
    return []


class Watched(InProcess):
    """A runtime that delivers in a random order, each message as it was when it was sent: itself,
    or where memory is ``apart`` what has its bytes by then, as between processes."""

    apart = False
    copies = 0
    """Whole stages that came to a seat."""

    def __init__(
        self, actors: Mapping[Address, Actor], spawn: Callable[[Address, int], Mortal]
    ) -> None:
        super().__init__(actors, spawn, random.Random(0).randrange)
        self._sums: dict[int, tuple[Message, int]] = {}

    def _exhaust(self, address: Address) -> None:
        before = len(self._pending)
        super()._exhaust(address)
        for _, message in list(self._pending)[before:]:
            self._sums.setdefault(id(message), (message, self._sum(message)))

    def _next(self) -> Outgoing:
        to, message = super()._next()
        if id(message) in self._sums:
            assert self._sums[id(message)][1] == self._sum(message), f"{message} was changed"
        if not tensor_bytes(message):
            return to, message
        type(self).copies += isinstance(message, StateReply)
        if self.apart:
            message = codec.decode(b"".join(codec.encode(message)))
        return to, message

    @staticmethod
    def _sum(message: Message) -> int:
        found = tensors(message)
        return digest(found, ()) if found else 0


class Apart(StageWorker):
    """A seat that is told that others have memory of their own."""

    def __init__(self, address: Address, life: int, context: WorkerContext, **more: Any):
        super().__init__(address, life, replace(context, shares_memory=False), **more)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return {**TREE, "data": text(tmp_path / "a.txt")["data"]}


def weights(run: checkfree.Run) -> list[bytes]:
    return [file.read_bytes() for file in sorted((run.folder / "weights").glob("stage-*"))]


def disturbed(tmp_path: Path, settings: dict[str, Any]) -> checkfree.Run:
    hits = {"scenario": trace(tmp_path / "hits.json", *HITS), "stages": "all"}
    run = checkfree.train({**settings, "failures": hits, "out": str(tmp_path / "run")})
    assert len(of_kind(run.records, "failure")) >= 5 and of_kind(run.records, "replay")
    return run


@pytest.mark.parametrize("apart", [False, True], ids=["one process", "processes"])
def test_what_is_under_way_stays_as_it_was_sent(
    apart: bool, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one process what is sent is copied, and what dies is overwritten; between processes it is
    read once it leaves, and merely let go. Either way the run comes out as one without losses."""
    calm = checkfree.train({**settings, "out": str(tmp_path / "calm")})
    monkeypatch.setattr(Watched, "apart", apart)
    monkeypatch.setattr(Watched, "copies", 0)
    monkeypatch.setattr(assemble, "InProcess", Watched)
    monkeypatch.setattr(assemble, "StageWorker", Apart if apart else StageWorker)
    assert weights(disturbed(tmp_path, settings)) == weights(calm)
    assert Watched.copies >= 4


def test_this_would_tell(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seat that overwrites what it has sent as it lies."""

    def overwrite(self: Replayable) -> None:
        for state in (*self._own.values(), *self._held.values()):
            state.destroy()

    monkeypatch.setattr(Replayable, "destroy", overwrite)
    monkeypatch.setattr(Watched, "apart", True)
    monkeypatch.setattr(assemble, "InProcess", Watched)
    monkeypatch.setattr(assemble, "StageWorker", Apart)
    with pytest.raises(AssertionError, match="was changed"):
        disturbed(tmp_path, settings)

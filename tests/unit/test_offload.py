"""A stage that moves its stash away between forward and backward, beside one that keeps it."""

from __future__ import annotations

import errno
import os
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from checkfree.core.errors import BadInput
from checkfree.pipeline.stash import NOTHING
from checkfree.stage import Part, Stage, offload
from checkfree.stage.offload import Offloading, _File
from tests.chaos import SOAK
from tests.tiny import WIDTH, Edge
from tests.unit.states import body, conditions, same, tensor
from tests.unit.test_split_backward import SPLIT, WHOLE, run

BF16 = torch.bfloat16
DEADLINE = 20.0
NOTHING_TO_MOVE = {
    *("one product", "convolution", "identity", "nothing but a norm"),  # but what came in
    *("recomputing", "hidden weights"),  # which autograd does not see
}


@pytest.fixture(autouse=True)
def everything_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of tests are small."""
    torch.set_num_threads(1)
    monkeypatch.setattr(offload, "LEAST", 1)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def how(tmp_path: Path, said: list[str]) -> Offloading:
    return Offloading(tmp_path, said.append, lambda ops: NOTHING)


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes that have been written, one microbatch after the other."""
    found: list[int] = []
    write = offload.DiskMover._write

    def counted(self: Any, parcel: offload.Parcel) -> None:
        write(self, parcel)
        found.append(parcel.bytes)

    monkeypatch.setattr(offload.DiskMover, "_write", counted)
    return found


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def settle(stage: Stage) -> None:
    """All that is to leave has left."""
    mover: Any = stage._mover
    until(lambda: not mover._leaving and not mover._jobs)


def alike(one: list[Any], other: list[Any]) -> bool:
    return all(
        a is b if a is None or b is None else torch.equal(a, b)
        for a, b in zip(one, other, strict=True)
    )


def iterations(stage: Stage, *, split: bool = False, between: Callable[[], Any] = bool) -> Any:
    """Two of three microbatches, the state after them."""
    x = tensor(0).to(stage.dtype)
    for iteration in range(2):
        for m in range(3):
            stage.forward((m, 1), Part.BODY, x + m + iteration, None, seed=m)
            between()
        stage.read_ahead((0, 1))
        for m in range(3):
            stage.backward((m, 1), 1 - x, 0.5, split=split)
            stage.backward_weights((m, 1))
        stage.reduced()
        stage.step(iteration, 1.0)
    return stage.snapshot()


# --- the same bits -------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [*[False] * SOAK, True])
@pytest.mark.parametrize("name", [*SPLIT, *WHOLE])
def test_no_bit_depends_on_it(name: str, split: bool, how: Offloading, moved: list[int]) -> None:
    make = {**SPLIT, **WHOLE}[name]
    assert alike(run(make, split=split)[0], run(make, split=split, offload=how)[0])
    assert moved or name in NOTHING_TO_MOVE


@pytest.mark.parametrize(
    "more",
    [{}, {"autocast": BF16}, {"weights": BF16}, {"double": True}],
    ids=["fp32", "bf16", "bf16_weights", "fp64"],
)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_nor_on_precision_and_dropout(
    more: dict[str, Any], dropout: float, how: Offloading, moved: list[int]
) -> None:
    wide = more.pop("double", False)

    def made(**given: Any) -> Stage:
        module = body(dropout)
        return Stage(module.double() if wide else module, conditions(**more, **given))

    more = dict(more)
    kept = iterations(made())
    for split in (False, True):
        stage = made(offload=how)
        assert same(kept, iterations(stage, split=split, between=lambda s=stage: settle(s)))
    assert same(kept, iterations(made(recompute=True)))
    assert len(moved) == 12


def test_stage_0_moves_what_its_loss_needs(how: Offloading, moved: list[int]) -> None:
    found = []
    for more in ({}, {"offload": how}):
        torch.manual_seed(0)
        stage, batch = Stage(Edge(), conditions(**more)), tensor(1)
        hidden = stage.forward((0, 0), Part.EMBED, None, batch, seed=0)
        stage.forward((0, 2), Part.HEAD, 2 * hidden, batch, seed=0)
        if more:
            settle(stage)
        dx = stage.backward((0, 2), None, scale=0.5)
        assert stage.backward((0, 0), dx) is None
        found.append([dx, *stage.gradients().values()])
    assert alike(*found) and len(moved) == 1


def test_what_is_not_chosen_stays(how: Offloading, moved: list[int]) -> None:
    stage = Stage(body(), conditions(offload=how))
    stage.moving = {(1, 1)}
    kept = iterations(Stage(body(), conditions()))
    assert same(kept, iterations(stage, between=lambda: settle(stage))) and len(moved) == 2
    stage.moving = ()
    iterations(stage, between=lambda: settle(stage))
    assert len(moved) == 2


class Writes(nn.Module):
    """What the product has saved is written to."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        z: Tensor = self.inner(y)
        y.add_(1)
        return z


def test_what_autograd_refuses_is_refused(how: Offloading) -> None:
    """Who has hooks has to look by himself."""
    for more in ({}, {"offload": how}):
        stage = Stage(Writes(), conditions(**more))
        stage.forward((0, 1), Part.BODY, tensor(0), None, 0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            stage.backward((0, 1), tensor(1))


class Differentiates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        slope: Tensor = torch.func.grad(lambda z: (z**3).sum())(x)
        return self.inner(x + slope)


def test_what_torch_has_no_hooks_for_is_told(how: Offloading) -> None:
    stage = Stage(Differentiates(), conditions(offload=how))
    with pytest.raises(BadInput, match="have its stage keep its stash"):
        stage.forward((0, 1), Part.BODY, tensor(0), None, 0)


# --- what is in memory ---------------------------------------------------------------------------


class Remembers(nn.Module):
    """Whose largest tensor can be watched, and shares its memory with another one."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.memories = nn.Linear(64 * WIDTH, WIDTH), list[Any]()

    def forward(self, x: Tensor) -> Tensor:
        wide = x.repeat(1, 64).exp()  # which saves what it makes
        self.memories.append(weakref.ref(wide.untyped_storage()))
        return x + self.out(wide.view(len(x), -1))

    @property
    def alive(self) -> int:
        return sum(memory() is not None for memory in self.memories)


@pytest.mark.parametrize("offloads", [False, True])
def test_few_are_in_memory(offloads: bool, how: Offloading, moved: list[int]) -> None:
    stage = Stage(made := Remembers(), conditions(offload=how if offloads else None))
    most = []
    for m in range(8):
        stage.forward((m, 1), Part.BODY, tensor(m), None, 0)
        most.append(made.alive)
    assert max(most) <= 2 if offloads else most == [*range(1, 9)]
    if offloads:
        settle(stage)
        until(lambda: made.alive == 0)
        # Once, though two operations saved it; beside it the mask of nothing, and no weights.
        assert moved == [4 * 3 * 64 * WIDTH] * 8
    for m in range(8):
        stage.backward((m, 1), tensor(m))
    assert made.alive == 0


def test_a_place_on_the_disk_is_used_again(how: Offloading, moved: list[int]) -> None:
    stage = Stage(body(), conditions(offload=how))
    for _ in range(5):
        iterations(stage, between=lambda: settle(stage))
    file: Any = stage._mover._file  # type: ignore[union-attr]
    assert len(moved) == 30 and file._end <= 4 * moved[0]


def test_extents(tmp_path: Path) -> None:
    file = _File(tmp_path)
    assert [file.take(10), file.take(20), file.take(30)] == [0, 10, 30]
    file.give(0, 10)
    file.give(10, 20)
    assert [file.take(25), file.take(6), file.take(5)] == [0, 60, 25]
    for at, count in ((0, 25), (60, 6), (25, 5), (30, 30)):
        file.give(at, count)
    assert file.take(1) == 0 and file._end == 1


# --- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
def test_what_is_given_up_is_tried_again(split: bool, how: Offloading, moved: list[int]) -> None:
    stage = Stage(body(0.5), conditions(offload=how))
    kept = iterations(Stage(body(0.5), conditions()))
    for m in range(3):
        stage.forward((m, 1), Part.BODY, tensor(m), None, seed=m)
    stage.read_ahead((0, 1))
    stage.backward((0, 1), tensor(4), split=split)
    stage.read_ahead((1, 1))
    stage.discard()
    assert same(kept, iterations(stage, split=split))


def test_a_full_disk_changes_nothing(
    how: Offloading, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one that takes a part."""
    kept = iterations(Stage(body(0.5), conditions()))
    room, write = [100], os.pwrite

    def short(descriptor: int, view: memoryview, at: int) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = min(room[0], len(view))
        room[0] -= count
        return write(descriptor, view[:count], at)

    monkeypatch.setattr(os, "pwrite", short)
    assert same(kept, iterations(Stage(body(0.5), conditions(offload=how))))
    assert len(said) == 1 and "No space left" in said[0] and "kept in memory" in said[0]


def test_nor_one_that_is_not_there(how: Offloading, said: list[str]) -> None:
    how.folder.rmdir()
    kept = iterations(Stage(body(), conditions()))
    assert same(kept, iterations(Stage(body(), conditions(offload=how))))
    assert len(said) == 1 and f"stash_path={how.folder}: No such file" in said[0]


@pytest.mark.parametrize("broken", ["error", "short", "other bytes"])
@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
def test_what_can_not_be_read_is_computed_again(
    broken: str, split: bool, how: Offloading, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(descriptor: int, views: list[memoryview], at: int) -> int:
        if broken == "error":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return len(views[0]) if broken == "other bytes" else 0

    kept = iterations(Stage(body(0.5), conditions()))
    monkeypatch.setattr(os, "preadv", wrong)
    stage = Stage(body(0.5), conditions(offload=how))
    assert same(kept, iterations(stage, split=split, between=lambda: settle(stage)))
    assert said and all("is computed again" in line for line in said)


def test_no_thread_is_left(how: Offloading, moved: list[int]) -> None:
    """Nor does one that was there before a fork lame what is forked."""
    stage = Stage(body(), conditions(offload=how))
    iterations(stage)

    def ours() -> list[threading.Thread]:
        return [one for one in threading.enumerate() if one.name == "checkfree-stash"]

    until(lambda: not ours())
    kept = iterations(Stage(body(), conditions()))
    mover: Any = stage._mover
    mover._thread = threading.Thread()  # as a fork has it: one that does not run
    fresh = Stage(body(), conditions(offload=how))
    fresh._mover = mover
    assert same(kept, iterations(fresh))

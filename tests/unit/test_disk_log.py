"""A log on a disk is the one in memory, whatever is done to it and whatever goes wrong there."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from checkfree.core.ops import Address
from checkfree.messages.control import Ticket
from checkfree.messages.quantize import CODES, SCALES, pack
from checkfree.messages.tensors import Activation, Gradient
from checkfree.runtime import disk_log
from checkfree.runtime.disk_log import LEAST, DiskLog, most_bytes
from checkfree.worker.log import LogLost, Sent, SentLog, in_host_memory
from tests.unit.wires import any_tensor, same

STAGES = (0, 1, 2)

tensors = any_tensor()
messages: st.SearchStrategy[Sent] = st.tuples(
    st.builds(Address, st.sampled_from(STAGES)),
    st.builds(
        lambda kind, tensor, scales, at: kind(Ticket(0, at), at, 1, tensor, scales),
        st.sampled_from((Activation, Gradient)),
        tensors,
        st.none() | tensors,
        st.integers(0, 5),
    ),
)
steps = st.one_of(
    st.tuples(
        st.sampled_from(("add", "extend")), st.integers(0, 7), st.lists(messages, max_size=3)
    ),
    st.tuples(st.sampled_from(("trim", "cut")), st.none() | st.integers(0, 8)),
)


def quiet(text: str) -> None:
    raise AssertionError(text)


def descriptors(folder: Path) -> list[str]:
    """Files of that folder that this process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if path.startswith(str(folder)):
            found.append(path)
    return found


def check_equal(one: SentLog | DiskLog, other: DiskLog) -> None:
    assert one.bytes == other.bytes
    for iteration in range(9):
        assert one.whole_since(iteration) == other.whole_since(iteration)
        for stage in (None, *STAGES):
            sent, again = one.of(iteration, stage), other.of(iteration, stage)
            assert len(sent) == len(again)
            for (to, message), (seat, copy) in zip(sent, again, strict=True):
                assert to == seat and same(message, copy)


def do(log: SentLog | DiskLog, step: Sequence[Any]) -> None:
    name, *arguments = step
    if name == "cut" and arguments == [None]:
        arguments = [0]
    getattr(log, name)(*arguments)


@settings(max_examples=60)
@given(st.lists(steps, max_size=12), st.sampled_from((1, 64, LEAST)))
def test_it_is_the_log_in_memory(
    tmp_path_factory: pytest.TempPathFactory, done: list[Any], least: int
) -> None:
    folder = tmp_path_factory.mktemp("logs")
    memory, disk = SentLog(), DiskLog(folder, quiet)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk_log, "LEAST", least)
        for step in done:
            do(memory, step)
            do(disk, step)
            check_equal(memory, disk)
            assert not list(folder.iterdir())
        disk.trim(None)
        assert not disk.bytes and not disk.bytes_on_disk and not descriptors(folder)


def activation(iteration: int, tensor: Tensor, to: int = 1) -> Sent:
    return Address(to), Activation(Ticket(0, iteration), 0, 1, tensor)


@pytest.mark.parametrize("how", ["bf16", "fp16", "int8", "int4"])
def test_what_is_cast_comes_back_as_it_left(how: str, tmp_path: Path) -> None:
    parts = pack(torch.randn(3, 300), how)
    tensor = parts.get("values", parts.get(CODES))
    assert tensor is not None
    sent = Address(1), Gradient(Ticket(0, 4), 0, 1, tensor, parts.get(SCALES))
    log = DiskLog(tmp_path, quiet)
    log.add(4, [sent])
    ((to, again),) = log.of(4)
    assert to == sent[0] and same(again, sent[1])
    assert again.tensor.data_ptr() != tensor.data_ptr()


def test_space_is_given_back(tmp_path: Path) -> None:
    """As iterations are trimmed, but for a little; with few files, however many there are."""
    log, size, kept = DiskLog(tmp_path, quiet), LEAST // 4, 100
    for iteration in range(1000):
        log.add(iteration, [activation(iteration, torch.empty(size, dtype=torch.uint8))])
        log.trim(iteration - kept + 1)
        assert log.bytes_on_disk <= most_bytes(log.bytes) + size
        assert len(descriptors(tmp_path)) <= disk_log.PARTS + 10
    assert log.bytes == kept * size
    log.cut(0)
    assert not descriptors(tmp_path) and not log.bytes_on_disk


def test_replayed_again_and_again_it_takes_no_more(tmp_path: Path) -> None:
    """Whoever is lost, or asked, once more replaces what was there."""
    log, size = DiskLog(tmp_path, quiet), LEAST // 4
    for _ in range(5):
        for iteration in range(60):
            log.add(iteration, [activation(iteration, torch.empty(size, dtype=torch.uint8))])
            assert log.bytes_on_disk <= most_bytes(log.bytes) + 2 * size
    assert log.bytes == 60 * size


def test_nobody_holds_what_nobody_has(tmp_path: Path) -> None:
    """Files go with the log, also where nobody empties it."""
    log = DiskLog(tmp_path, quiet)
    log.add(0, [activation(0, torch.ones(3))])
    assert len(descriptors(tmp_path)) == 1
    del log
    gc.collect()
    assert not descriptors(tmp_path)


def no_room(*arguments: Any) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def half(descriptor: int, view: memoryview, at: int) -> int:
    """A disk that takes some of it, and no more."""
    if len(view) < 2:
        raise OSError(errno.ENOSPC, "No space left on device")
    return write(descriptor, view[: len(view) // 2], at)


write, read = os.pwrite, os.preadv


@pytest.mark.parametrize("fails", [no_room, half])
def test_what_a_full_disk_does_not_take_stays_in_memory(
    fails: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    memory, disk = SentLog(), DiskLog(tmp_path, told.append)
    for iteration in range(6):
        monkeypatch.setattr(os, "pwrite", fails if iteration in (0, 2, 3) else write)
        sent = [activation(iteration, torch.randn(5)), activation(iteration, torch.randn(7), to=2)]
        for log in (memory, disk):
            log.add(iteration, sent)
            log.extend(iteration, [activation(iteration, torch.full((3,), 2.0))])
        check_equal(memory, disk)
    on_disk = {i for i, kept in disk._sent.items() if any(one.segment for one in kept)}
    assert on_disk == {1, 4, 5}
    assert disk.bytes_on_disk == sum(os.fstat(s._descriptor).st_size for s in disk._segments)
    assert set(told) == {
        f"recovery.log_path={tmp_path}: No space left on device: what it does not take is kept in "
        "memory"
    }


def test_a_folder_that_is_gone_is_a_disk_that_takes_nothing(tmp_path: Path) -> None:
    told: list[str] = []
    memory, disk = SentLog(), DiskLog(tmp_path / "gone", told.append)
    for log in (memory, disk):
        log.add(0, [activation(0, torch.ones(3))])
    check_equal(memory, disk)
    assert told[0].startswith(f"recovery.log_path={tmp_path}/gone: No such file or directory")


@pytest.mark.parametrize("fails", [no_room, lambda *given: 0])
def test_what_can_not_be_read_is_lost_and_the_rest_is_kept_in_memory(
    fails: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    disk = DiskLog(tmp_path, told.append)
    for iteration in range(5):
        disk.add(iteration, [activation(iteration, torch.ones(3))])
    monkeypatch.setattr(os, "preadv", fails)
    with pytest.raises(LogLost) as caught:
        disk.of(2)
    assert caught.value.since == 5 and disk.whole_since(5) == 5
    assert not disk.of(3) and not disk.bytes and not descriptors(tmp_path)
    disk.extend(3, [activation(3, torch.ones(3))])  # of a log that is gone
    assert disk.whole_since(5) == 5
    memory = SentLog()
    for log in (memory, disk):
        log.add(5, [activation(5, torch.ones(4))])
    check_equal(memory, disk)
    assert len(told) == 1 and "is kept in memory from now on" in told[0]


def test_a_log_on_the_host_is_shared_and_never_copied() -> None:
    sent = activation(0, torch.ones(3))
    assert in_host_memory(sent[1]) is sent[1]

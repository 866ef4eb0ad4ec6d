"""The store: an archive is there whole or not at all, and nothing damaged is handed out."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from checkfree.core.errors import RunFailed
from checkfree.core.ops import LEAD, STORE, Address, Source, Upload
from checkfree.messages.control import (
    AVERAGE,
    CHECKPOINT,
    RESUME,
    WEIGHTS,
    Archive,
    Archived,
    Message,
    Outgoing,
    StateRequest,
)
from checkfree.messages.limits import DTYPES
from checkfree.messages.tensors import KeepState, StageState, StateReply
from checkfree.runtime.files import DiskFiles, write_whole
from checkfree.runtime.store import Damaged, Store, decode_state, encode_state, merged
from tests.tiny import MemoryFiles
from tests.unit.states import same

SEATS = (Address(0), Address(1))


def state(seed: int = 0) -> StageState:
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(2, 3, generator=generator) for _ in range(3)]
    return StageState(
        params={"inner.weight": tensors[0]},
        buffers={"table": tensors[1]},
        moments={"inner.weight/exp_avg": tensors[2], "inner.weight/step": torch.tensor(3.0)},
        version=seed,
        gradient_norm=1 / 3,
        clipped_norm=0.1,
        lr_scale=1.1,
    )


def send(store: Store, *messages: Message) -> list[Outgoing]:
    for message in messages:
        store.deliver(message)
    out: list[Outgoing] = []
    while (sent := store.advance()) is not None:
        out += sent
    return out


def order(
    shelf: int,
    area: str = CHECKPOINT,
    epoch: int = 0,
    note: object = None,
    known: tuple[int, ...] = tuple(range(99)),
) -> Archive:
    return Archive(epoch, area, shelf, SEATS, known, {"progress": note or {}})


def part(shelf: int, stage: int, area: str = CHECKPOINT, epoch: int = 0) -> KeepState:
    keep = Upload(Address(stage))
    return KeepState(epoch, keep, area, shelf, state(10 * shelf + stage))


def archive(store: Store, *shelves: int, area: str = CHECKPOINT, note: object = None) -> None:
    for shelf in shelves:
        made = send(store, order(shelf, area, note=note), *(part(shelf, s, area) for s in (0, 1)))
        assert made == [(LEAD, Archived(0, area, shelf, store.offered(area)))]


# --- a state as bytes ----------------------------------------------------------------------------


def test_a_state_comes_back_bit_for_bit() -> None:
    assert same(decode_state(encode_state(state(4))), state(4))
    empty = StageState({}, {}, {}, version=0)
    assert same(decode_state(encode_state(empty)), empty)


@pytest.mark.parametrize("name", DTYPES)
def test_so_does_whatever_messages_carry(name: str) -> None:
    dtype = getattr(torch, name)
    tensors = {"w": torch.arange(6).view(2, 3).to(dtype), "b": torch.ones(()).to(dtype)}
    made = decode_state(
        encode_state(StageState(tensors, {"none": torch.empty(0, dtype=dtype)}, {}, 1))
    )
    for group, expected in ((made.params, tensors), (made.buffers, {"none": torch.empty(0)})):
        for key, tensor in expected.items():
            assert group[key].dtype == dtype and group[key].shape == tensor.shape
            assert group[key].flatten().tolist() == tensor.flatten().tolist()


def test_so_does_the_way_that_it_was_going() -> None:
    moving = replace(state(4), heading={"inner.weight/codes": torch.ones(1).byte()}, since=2)
    assert same(decode_state(encode_state(moving)), moving)
    assert decode_state(encode_state(moving)).since == 2


def test_weights_alone_are_plain_safetensors() -> None:
    found = safetensors.torch.load(encode_state(state(), weights_only=True))
    assert found.keys() == {"inner.weight", "table"}


@given(st.binary(max_size=200))
def test_garbage_is_no_state(data: bytes) -> None:
    with pytest.raises(Damaged, match=r"^stage-1 is no state"):
        decode_state(data, "stage-1")


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"params:a": torch.ones(1)}, None),
        ({"params:a": torch.ones(1)}, {"checkfree": "{}"}),
        ({"params:a": torch.ones(1)}, {"checkfree": "[1]"}),
        ({"params:a": torch.ones(1)}, {"checkfree": '{"version": 1, "params": {}}'}),
        ({"a": torch.ones(1)}, {"checkfree": '{"version": 1}'}),
    ],
)
def test_other_safetensors_are_no_state(tensors: dict, metadata: dict | None) -> None:
    with pytest.raises(Damaged, match="is no state"):
        decode_state(safetensors.torch.save(tensors, metadata))


# --- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("messages", list(itertools.permutations(range(3))))
def test_parts_and_order_may_come_in_any_order(messages: tuple[int, ...]) -> None:
    store = Store(MemoryFiles())
    sent = (order(5), part(5, 0), part(5, 1))
    out = send(store, *(sent[place] for place in messages))
    assert out == [(LEAD, Archived(0, CHECKPOINT, 5, (5,)))]
    assert all(same(store.load(CHECKPOINT, 5, s), state(50 + s)) for s in (0, 1))
    assert store.note(CHECKPOINT, 5) == {"progress": {}}


@pytest.mark.parametrize("messages", list(itertools.permutations(range(4))))
def test_what_replicas_hold_for_others_stands_beside_the_stages(messages: tuple[int, ...]) -> None:
    twin = Address(1, 1)
    beside = replace(part(5, 1), keep=Upload(twin))
    beside = replace(beside, state=StageState({}, {}, {}, 9, held={"crossed/a": torch.ones(2)}))
    store = Store(MemoryFiles())
    sent = (replace(order(5), seats=(*SEATS, twin)), part(5, 0), part(5, 1), beside)
    out = send(store, *(sent[place] for place in messages))
    assert out == [(LEAD, Archived(0, CHECKPOINT, 5, (5,)))]
    assert all(same(store.load(CHECKPOINT, 5, s), state(50 + s)) for s in (0, 1))
    (held,) = store.load_held(CHECKPOINT, 5).items()
    assert held[0] == twin and torch.equal(held[1]["crossed/a"], torch.ones(2))


def test_a_part_that_nobody_asked_for_is_none() -> None:
    store = Store(MemoryFiles())
    assert send(store, order(5), part(5, 7), part(5, 0)) == []
    assert send(store, part(5, 1)) == [(LEAD, Archived(0, CHECKPOINT, 5, (5,)))]
    assert store.load_held(CHECKPOINT, 5) == {}


@dataclass
class Breaks(MemoryFiles):
    """A machine that stops after so many writes."""

    left: int = 0

    def write(self, name: str, data: bytes) -> None:
        if self.left == 0:
            raise OSError(28, "No space left on device")
        self.left -= 1
        super().write(name, data)


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_crash_before_the_manifest_leaves_no_archive(writes: int) -> None:
    files = Breaks(left=writes)
    with pytest.raises(OSError, match="No space"):
        archive(Store(files), 5)
    again = Store(files)
    assert again.offered(CHECKPOINT) == ()
    with pytest.raises(Damaged):
        again.load(CHECKPOINT, 5, 0)


def test_a_half_written_archive_is_written_anew() -> None:
    files = Breaks(left=2)
    with pytest.raises(OSError, match="No space"):
        archive(Store(files), 5)
    files.left = 99
    archive(Store(files), 5)
    assert same(Store(files).load(CHECKPOINT, 5, 1), state(51))


def test_an_archive_is_not_there_while_it_is_written_over() -> None:
    store = Store(MemoryFiles())
    archive(store, 5)
    send(store, order(5, epoch=1), part(5, 0, epoch=1))
    assert store.offered(CHECKPOINT) == ()


def test_parts_of_an_older_epoch_do_not_count() -> None:
    store = Store(MemoryFiles())
    assert send(store, order(5), part(5, 0), order(5, epoch=1), part(5, 1)) == []
    assert send(store, part(5, 0), part(5, 0, epoch=1)) == []
    assert store.offered(CHECKPOINT) == ()
    (answer,) = send(store, part(5, 1, epoch=1))
    assert answer == (LEAD, Archived(1, CHECKPOINT, 5, (5,)))


def test_an_order_of_an_older_epoch_touches_nothing() -> None:
    store = Store(MemoryFiles())
    send(store, order(5, epoch=1), part(5, 0, epoch=1), part(5, 1, epoch=1))
    assert send(store, order(5), part(5, 0), part(5, 1)) == []
    assert store.offered(CHECKPOINT) == (5,)


def test_the_newest_are_kept() -> None:
    store = Store(MemoryFiles(), newest=2)
    archive(store, 0, 4, 8, 12)
    assert store.offered(CHECKPOINT) == (8, 12)


def test_of_snapshots_others_may_be_kept() -> None:
    store = Store(MemoryFiles(), newest=1, kept={RESUME: 3})
    archive(store, 0, 2, 4)
    archive(store, 1, 2, 3, 4, area=RESUME, note={"checkpoints": []})
    assert (store.offered(CHECKPOINT), store.offered(RESUME)) == ((4,), (2, 3, 4))


def test_states_to_average_go_back_with_the_run() -> None:
    store = Store(MemoryFiles(), kept={AVERAGE: 3})
    archive(store, 2, 4, 6, 8, area=AVERAGE)
    assert store.offered(AVERAGE) == (4, 6, 8)
    archive(store, 6, area=AVERAGE)
    assert store.offered(AVERAGE) == (4, 6)


def test_an_average_is_a_folder_of_its_own() -> None:
    store = Store(MemoryFiles())
    store.shelve(merged("one"), 0, {0: state(1), 1: state(2)}, {"rule": "mean"})
    store.shelve(merged("other"), 0, {0: state(3)}, {})
    assert store.merged() == ("one", "other")
    assert store.note(merged("one"), 0) == {"rule": "mean"}
    found = store.weights(1, merged("one"))
    assert torch.equal(found["inner.weight"], state(2).params["inner.weight"])
    store.forget(merged("one"), 0)
    assert store.merged() == ("other",)
    with pytest.raises(Damaged, match=r"merged/one/manifest.json is damaged"):
        store.weights(1, merged("one"))


def test_what_a_snapshot_needs_is_kept_as_long_as_the_snapshot() -> None:
    store = Store(MemoryFiles(), newest=1)
    archive(store, 0)
    archive(store, 2, area=RESUME, note={"checkpoints": [0]})
    archive(store, 4, 8)
    assert store.offered(CHECKPOINT) == (0, 8)
    archive(store, 9, area=RESUME, note={"checkpoints": [8]})
    archive(store, 12)
    assert store.offered(CHECKPOINT) == (8, 12) and store.offered(RESUME) == (9,)


def test_a_damaged_snapshot_does_not_end_the_training_that_goes_on() -> None:
    files = MemoryFiles()
    store = Store(files, newest=1)
    archive(store, 2, area=RESUME, note={"checkpoints": []})
    files.data[f"{RESUME}/00000002/manifest.json"] = b"{"
    archive(store, 4)
    assert store.offered(CHECKPOINT) == (4,)


def test_what_a_rollback_forgot_is_dropped_with_the_next_checkpoint() -> None:
    store = Store(MemoryFiles())
    archive(store, 0, 4, 8)
    archive(store, 8, area=RESUME, note={"checkpoints": []})
    send(store, order(2, known=(0,)), part(2, 0), part(2, 1))
    assert (store.offered(CHECKPOINT), store.offered(RESUME)) == ((0, 2), (8,))


def test_the_weights_of_any_archive_alone() -> None:
    files = MemoryFiles()
    store = Store(files)
    archive(store, 5)
    found, whole = store.weights(1, CHECKPOINT, 5), store.load(CHECKPOINT, 5, 1)
    expected = {**whole.params, **whole.buffers}
    assert found.keys() == expected.keys() and len(found) == 2
    assert all(torch.equal(found[name], expected[name]) for name in found)
    (name,) = (name for name in files.data if name.endswith("stage-1.safetensors"))
    good = files.data[name]
    for bad in (good[:-1], good + b"x", bytes([good[0] ^ 1]) + good[1:], b""):
        files.data[name] = bad
        with pytest.raises(Damaged, match="its SHA-256 is not the manifest's"):
            store.weights(1, CHECKPOINT, 5)
    del files.data[name]
    with pytest.raises(Damaged, match=r"stage-1\.safetensors"):
        store.weights(1, CHECKPOINT, 5)


def test_the_finished_weights_are_one_folder_of_plain_files() -> None:
    files = MemoryFiles()
    archive(Store(files), 5, area=WEIGHTS)
    assert sorted(files.data) == [
        "weights/manifest.json",
        "weights/stage-0.safetensors",
        "weights/stage-1.safetensors",
    ]
    assert "inner.weight" in safetensors.torch.load(files.data["weights/stage-1.safetensors"])


# --- damage --------------------------------------------------------------------------------------

BEFORE = MemoryFiles()
archive(Store(BEFORE), 5, note={"tick": 7, "checkpoints": [0, 5]})


def everything(store: Store) -> Iterator[object]:
    yield store.note(CHECKPOINT, 5)
    for stage in (0, 1):
        yield store.load(CHECKPOINT, 5, stage)


def flipped(name: str, place: int, bits: int) -> Store:
    data = bytearray(BEFORE.data[name])
    data[place] ^= bits
    return Store(MemoryFiles({**BEFORE.data, name: bytes(data)}))


@given(st.data(), st.sampled_from([0, 1]), st.integers(1, 255))
def test_any_flipped_byte_of_a_part_is_found(data: st.DataObject, stage: int, bits: int) -> None:
    name = f"checkpoint/00000005/stage-{stage}.safetensors"
    store = flipped(name, data.draw(st.integers(0, len(BEFORE.data[name]) - 1)), bits)
    with pytest.raises(Damaged, match=f"{name} is damaged: its SHA-256 is not the manifest's"):
        store.load(CHECKPOINT, 5, stage)
    assert same(store.load(CHECKPOINT, 5, 1 - stage), state(51 - stage))


def test_any_flipped_byte_of_a_manifest_is_found_where_it_could_tell_a_lie() -> None:
    name = "checkpoint/00000005/manifest.json"
    good = list(everything(Store(BEFORE)))
    lies = []
    for place, bits in itertools.product(range(len(BEFORE.data[name])), (1, 2, 4, 8, 32, 128)):
        try:
            found = list(everything(flipped(name, place, bits)))
        except Damaged:
            continue
        if found[0] != good[0] or not all(map(same, found[1:], good[1:])):
            lies.append(found[0])
    assert lies == []


@pytest.mark.parametrize("length", [0, 1, 8, 100, -1])
def test_a_part_cut_short_is_found(length: int) -> None:
    name = "checkpoint/00000005/stage-0.safetensors"
    store = Store(MemoryFiles({**BEFORE.data, name: BEFORE.data[name][:length]}))
    with pytest.raises(Damaged, match="SHA-256"):
        store.load(CHECKPOINT, 5, 0)


@pytest.mark.parametrize("manifest", [b"", b"{}", b"[]", b"7", b'{"stages": [], "note": {}}'])
def test_what_is_no_manifest_is_damaged(manifest: bytes) -> None:
    name = "checkpoint/00000005/manifest.json"
    store = Store(MemoryFiles({**BEFORE.data, name: manifest}))
    for read in (lambda: store.load(CHECKPOINT, 5, 0), lambda: store.note(CHECKPOINT, 5)):
        with pytest.raises(Damaged, match=f"{name} is damaged"):
            read()


@pytest.mark.parametrize("part", [{}, [], 7, {"bytes": None, "sha256": ""}])
def test_a_manifest_that_lacks_the_sums_is_damaged(part: object) -> None:
    name = "checkpoint/00000005/manifest.json"
    manifest = json.dumps({"shelf": 5, "stages": {"0": part}, "note": {}}).encode()
    store = Store(MemoryFiles({**BEFORE.data, name: manifest}))
    with pytest.raises(Damaged):
        store.load(CHECKPOINT, 5, 0)


def test_a_request_is_answered_with_the_state_or_the_reason() -> None:
    store = flipped("checkpoint/00000005/stage-1.safetensors", 60, 1)
    requests = [
        StateRequest(3, Address(s), Source(STORE, s, v)) for s, v in ((0, 5), (1, 5), (0, 4))
    ]
    (good, bad, missing) = (reply for _, reply in send(store, *requests))
    assert isinstance(good, StateReply) and good.state is not None and same(good.state, state(50))
    assert good.epoch == 3 and good.source == requests[0].source
    assert isinstance(bad, StateReply) and bad.state is None
    assert bad.problem.startswith("checkpoint/00000005/stage-1.safetensors is damaged")
    assert (
        isinstance(missing, StateReply) and missing.state is None and "00000004" in missing.problem
    )


# --- on a disk -----------------------------------------------------------------------------------


def test_a_disk_keeps_what_memory_does(tmp_path: Path) -> None:
    store = Store(DiskFiles(tmp_path), newest=2)
    archive(store, 0, 4, 8)
    assert Store(DiskFiles(tmp_path)).offered(CHECKPOINT) == (4, 8)
    assert same(Store(DiskFiles(tmp_path)).load(CHECKPOINT, 8, 1), state(81))
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".draft"]


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "folder" / "file"
    write_whole(path, b"old")
    for step in ("fsync", "replace"):
        with monkeypatch.context() as broken, pytest.raises(RunFailed, match="No space"):
            broken.setattr(os, step, stop)
            write_whole(path, b"new")
        assert path.read_bytes() == b"old"
        assert [p.name for p in path.parent.iterdir()] == ["file"]
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_file_that_grew_is_not_read_whole(tmp_path: Path) -> None:
    archive(Store(DiskFiles(tmp_path)), 5)
    path = tmp_path / "checkpoint/00000005/stage-0.safetensors"
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(Damaged, match="bytes, expected at most"):
        Store(DiskFiles(tmp_path)).load(CHECKPOINT, 5, 0)

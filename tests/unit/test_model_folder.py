"""Folders of safetensors: read as the library of safetensors does, refused in one line, written
whole or not at all."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from checkfree.models import folder as folders
from checkfree.models.folder import INDEX, SINGLE, Draft, Folder, draft_of

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b.weight": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "c": torch.tensor(7, dtype=torch.int64),
    "d": torch.zeros(0, 4, dtype=torch.float16),
    "e": torch.tensor([True, False, True]),
    "ü": torch.tensor([1.0, 2.0], dtype=torch.float64),
}


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


def write(path: Path, shards: list[dict[str, Tensor]]) -> Path:
    with draft_of(path) as draft:
        for number, tensors in enumerate(shards, 1):
            draft.shard(number, len(shards), tensors)
    return path


def halves() -> list[dict[str, Tensor]]:
    items = list(TENSORS.items())
    return [dict(items[:3]), dict(items[3:])]


def test_what_the_library_wrote_is_read(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / SINGLE)
    found = Folder(tmp_path)
    assert found.names == TENSORS.keys() and found.files == (SINGLE,)
    for name, tensor in TENSORS.items():
        assert found.shape(name) == tuple(tensor.shape) and found.dtype(name) == tensor.dtype
        assert same(found.read(name), tensor)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32, torch.float8_e4m3fn])
def test_numbers_are_turned_into_another_type(
    kind: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Piece by piece, of which the last is another size."""
    monkeypatch.setattr(folders, "PIECE", 64)
    drawn = torch.randn(7, 31, generator=torch.Generator().manual_seed(0)).to(kind)
    tensors = {"many": drawn, "one": drawn[0, 0].clone(), "none": drawn[:0].clone()}
    found = Folder(write(tmp_path / "out", [tensors]))
    for name, tensor in tensors.items():
        for wanted in (torch.float32, torch.float64):
            to = torch.full(tensor.shape, torch.nan, dtype=wanted)
            found.read_into(name, to)
            assert torch.equal(to, tensor.to(wanted))


@pytest.mark.parametrize("shards", [1, 2])
def test_what_is_written_is_read_by_the_library(tmp_path: Path, shards: int) -> None:
    path = write(tmp_path / "out", [TENSORS] if shards == 1 else halves())
    found: dict[str, Tensor] = {}
    for file in sorted(path.glob("*.safetensors")):
        found |= load_file(file)
    assert found.keys() == TENSORS.keys()
    assert all(same(found[name], tensor) for name, tensor in TENSORS.items())
    assert all(same(Folder(path).read(name), tensor) for name, tensor in TENSORS.items())
    assert sorted(os.listdir(path)) == (
        [SINGLE]
        if shards == 1
        else ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", INDEX]
    )
    assert os.listdir(tmp_path) == ["out"]


def test_shards_without_an_index_are_read_too(tmp_path: Path) -> None:
    path = write(tmp_path / "out", halves())
    (path / INDEX).unlink()
    assert Folder(path).names == TENSORS.keys()
    save_file({"a": torch.ones(1)}, path / "other.safetensors")
    with pytest.raises(ValueError, match=r"both have a, and no .*index"):
        Folder(path)


def test_what_is_read_is_no_mapping_of_the_file(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / SINGLE)
    read = Folder(tmp_path).read("a")
    (tmp_path / SINGLE).write_bytes(b"\xff" * (tmp_path / SINGLE).stat().st_size)
    assert same(read, TENSORS["a"])


def test_a_digest_is_of_the_bytes_and_the_names_of_the_files(tmp_path: Path) -> None:
    one, other = (write(tmp_path / name, halves()) for name in ("one", "other"))
    assert Folder(one).digest() == Folder(other).digest()
    file = other / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    assert Folder(one).digest() != Folder(other).digest()


def _cut(path: Path) -> None:
    os.truncate(path / SINGLE, (path / SINGLE).stat().st_size - 1)


def _header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = (path / SINGLE).read_bytes()
        length = int.from_bytes(data[:8], "little")
        tree = json.loads(data[8 : 8 + length])
        text = json.dumps(change(tree)).encode()
        (path / SINGLE).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])

    return damage


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda tree: {**tree, "a": {**tree["a"], key: value}}


@pytest.mark.parametrize(
    "damage",
    [
        _cut,
        lambda path: (path / SINGLE).write_bytes(b""),
        lambda path: (path / SINGLE).write_bytes(b"\xff" * 40),
        lambda path: (path / SINGLE).write_bytes((10).to_bytes(8, "little") + b"not json!!"),
        _header(lambda tree: [1]),
        _header(_set("data_offsets", [0, 1 << 60])),
        _header(_set("data_offsets", [-24, 0])),
        _header(_set("data_offsets", [0])),
        _header(_set("data_offsets", None)),
        _header(_set("shape", [1 << 40, 1 << 40])),
        _header(_set("shape", [2.0, 3])),
        _header(_set("shape", [True, 6])),
        _header(_set("shape", 6)),
        _header(_set("dtype", "F99")),
        _header(_set("dtype", ["F32"])),
        _header(lambda tree: {**tree, "a": 3}),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    save_file(TENSORS, tmp_path / SINGLE)
    damage(tmp_path)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged") as refused:
        Folder(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_cut_short_later_is_refused(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / SINGLE)
    found = Folder(tmp_path)
    os.truncate(tmp_path / SINGLE, (tmp_path / SINGLE).stat().st_size - 9)
    with pytest.raises(ValueError, match="cut short"):
        for name in TENSORS:
            found.read(name)


def test_and_so_while_it_is_turned_into_another_type(tmp_path: Path) -> None:
    found = Folder(write(tmp_path / "out", [TENSORS]))
    assert found.dtype("b.weight") is torch.bfloat16
    file = tmp_path / "out" / SINGLE
    os.truncate(file, file.stat().st_size - sum(t.nbytes for t in TENSORS.values()) + 1)
    with pytest.raises(ValueError, match=r"cut short, within b\.weight"):
        found.read_into("b.weight", torch.empty(2))


def test_a_missing_shard_is_told_when_something_of_it_is_wanted(tmp_path: Path) -> None:
    path = write(tmp_path / "out", halves())
    (path / "model-00002-of-00002.safetensors").unlink()
    found = Folder(path)
    assert same(found.read("a"), TENSORS["a"])  # a seat may have its own shards alone
    with pytest.raises(ValueError, match=r"model-00002-of-00002\.safetensors is missing"):
        found.shape("ü")
    with pytest.raises(ValueError, match="has no x: that is another model"):
        found.read("x")


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("../secret.safetensors", "expected one of safetensors in the same folder"),
        ("/etc/x.safetensors", "expected one of safetensors in the same folder"),
        ("..\\x.safetensors", "expected one of safetensors in the same folder"),
        ("a\0.safetensors", "expected one of safetensors in the same folder"),
        ("model.bin", "expected one of safetensors in the same folder"),
        (3, "no weight_map"),
    ],
)
def test_an_index_that_names_what_it_may_not(tmp_path: Path, file: Any, told: str) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(ValueError, match=told):
        Folder(tmp_path)


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"weight_map": [1]}', "\xff", "[" * 10**5])
def test_an_index_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"is damaged|no weight_map"):
        Folder(tmp_path)


def test_an_index_that_names_what_its_shards_have_not(tmp_path: Path) -> None:
    path = write(tmp_path / "out", halves())
    tree = json.loads((path / INDEX).read_text())
    tree["weight_map"]["x"] = "model-00001-of-00002.safetensors"
    (path / INDEX).write_text(json.dumps(tree))
    with pytest.raises(ValueError, match="and it has not"):
        Folder(path).read("x")


def test_pickles_and_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no model\.safetensors"):
        Folder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="save it as safetensors"):
        Folder(tmp_path)
    with pytest.raises(ValueError, match="can't be read"):
        Folder(tmp_path / "nowhere")


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(ValueError, match="is not empty"):
        write(tmp_path, halves())
    with pytest.raises(ValueError, match="is a file"):
        write(tmp_path / "mine", halves())
    assert os.listdir(tmp_path) == ["mine"]
    (tmp_path / "empty").mkdir()
    assert Folder(write(tmp_path / "empty", halves())).names == TENSORS.keys()


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), draft_of(tmp_path / "out") as draft:
        draft.shard(1, 2, TENSORS)
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_two_writers_of_one_folder(tmp_path: Path) -> None:
    with draft_of(tmp_path / "out") as draft:
        with (
            pytest.raises(ValueError, match="is being written by another process"),
            draft_of(tmp_path / "out"),
        ):
            raise AssertionError
        draft.shard(1, 1, TENSORS)
    assert Folder(tmp_path / "out").names == TENSORS.keys()


def _killed(path: Path, at: str) -> None:
    def kill(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with draft_of(path) as draft:
        draft.shard(1, 2, halves()[0])
        if at == "shard":
            kill()
        draft.shard(2, 2, halves()[1])
        if at == "index":
            Draft.write_json = kill  # type: ignore[method-assign]
        if at == "rename":
            folders.os.rename = kill  # type: ignore[attr-defined]


@pytest.mark.parametrize("at", ["shard", "index", "rename"])
def test_a_killed_writer_leaves_nothing_that_looks_whole(tmp_path: Path, at: str) -> None:
    process = multiprocessing.get_context("fork").Process(
        target=_killed, args=(tmp_path / "out", at)
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    write(tmp_path / "out", halves())  # takes over what was left
    assert os.listdir(tmp_path) == ["out"]

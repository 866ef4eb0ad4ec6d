"""A folder of weights as the Hugging Face Hub has them: safetensors, in one file or in shards.

    model.safetensors                     all tensors; or else
    model-00001-of-00002.safetensors      a shard
    model.safetensors.index.json          {"weight_map": {name of a tensor: file of its shard}}

A file of safetensors begins with the length of its header (8 bytes, little-endian) and the header,
JSON of ``{name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}``; then come the bytes.
So all but the numbers is known without reading them. Nothing is ever unpickled, and what is read is
a copy: a mapping of the file would change with it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .hub import LARGEST_HEADER

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SUFFIX = ".safetensors"
PIECE = 1 << 20
"""Bytes that are read at once of what is turned into another type: they stay in a cache."""
LARGEST_JSON = 1 << 28
"""Bytes of an index, or of a configuration."""

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Names of safetensors to types of torch."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

NO_SAFETENSORS = (ValueError, KeyError, TypeError, AttributeError, RecursionError, EOFError)
"""What becomes of reading a file that is something else, or cut short."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_SLICES = "DCP_SHARDING_INFO"
"""Where ``torch.distributed.checkpoint`` notes the slices that its ranks have written."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: ``size`` bytes from ``start`` on."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    size: int


class Folder:
    """The weights in a folder. Raises ValueError, in one line with the mend, for a folder that has
    none, and for an index that is none or names files elsewhere."""

    def __init__(self, path: Path):
        self.path = path
        self._headers: dict[str, Mapping[str, StoredTensor]] = {}
        self._home = self._homes()

    @property
    def names(self) -> frozenset[str]:
        """Of all tensors."""
        return frozenset(self._home)

    @property
    def files(self) -> tuple[str, ...]:
        """Those that hold them, sorted."""
        return tuple(sorted({*self._home.values()}))

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor. Raises ValueError if there is none of that name, or its file is missing or
        damaged."""
        return self._entry(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Of a tensor. Raises ValueError, as ``shape`` does."""
        return self._entry(name).dtype

    def read(self, name: str) -> Tensor:
        """A tensor, in memory of its own. Raises ValueError, as ``shape`` does."""
        entry = self._entry(name)
        found = torch.empty(entry.shape, dtype=entry.dtype, device="cpu")
        self.read_into(name, found)
        return found

    @torch.no_grad()
    def read_into(self, name: str, to: Tensor) -> None:
        """The numbers of a tensor into a contiguous one of its shape, in the type of that: piece by
        piece where it is another one, so that hardly any memory is needed beside it. Raises
        ValueError, as ``shape`` does."""
        entry, file = self._entry(name), self.path / self._home[name]
        assert to.shape == entry.shape
        flat, size = to.view(-1), entry.dtype.itemsize
        alike = to.dtype is entry.dtype
        piece = flat if alike else torch.empty(PIECE // size, dtype=entry.dtype, device="cpu")
        try:
            with open(file, "rb") as opened:
                opened.seek(entry.start)
                for start in range(0, flat.numel(), max(1, piece.numel())):
                    part = piece[: flat.numel() - start]
                    got = opened.readinto(part.view(torch.uint8).numpy().data)
                    if got != part.numel() * size:
                        raise ValueError(f"{file} is cut short, within {name}: get it again")
                    if not alike:
                        flat[start : start + part.numel()].copy_(part)
        except OSError as error:
            raise _unreadable(file, error) from None

    def digest(self) -> str:
        """SHA-256 over the SHA-256 of each file, by name. Reads them all. Raises ValueError."""
        sums = {name: _sum_of(self.path / name) for name in self.files}
        return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()

    def json(self, name: str) -> dict[str, Any]:
        """What stands in a file beside the weights, as ``config.json``. Raises ValueError if that
        is missing or no JSON object."""
        return _json(self.path / name)

    def _entry(self, name: str) -> StoredTensor:
        if name not in self._home:
            raise ValueError(f"{self.path} has no {name}: that is another model")
        file = self._home[name]
        if file not in self._headers:
            self._headers[file] = header(self.path / file)
        entry = self._headers[file].get(name)
        if entry is None:
            raise ValueError(f"{self.path / INDEX} says that {file} has {name}, and it has not")
        return entry

    def _homes(self) -> dict[str, str]:
        """The file of each tensor."""
        try:
            found = sorted(os.listdir(self.path))
        except OSError as error:
            raise _unreadable(self.path, error) from None
        if SINGLE in found:
            files = [SINGLE]
        elif INDEX in found:
            return self._of_index()
        else:
            files = [name for name in found if name.endswith(SUFFIX)]
        if not files:
            pickled = next((name for name in found if name.endswith(_PICKLES)), None)
            raise ValueError(
                f"{self.path} has no {SINGLE}: give a folder of a model in safetensors"
                if pickled is None
                else f"{self.path} has {pickled}, which only unpickling can read, and that runs "
                "whatever code is in it: save it as safetensors, by save_pretrained of transformers"
            )
        homes: dict[str, str] = {}
        for file in files:
            self._headers[file] = header(self.path / file)
            for name in self._headers[file]:
                if name in homes:
                    raise ValueError(
                        f"{self.path}: {homes[name]} and {file} both have {name}, and no {INDEX} "
                        "says which counts: take one of them away"
                    )
                homes[name] = file
        return homes

    def _of_index(self) -> dict[str, str]:
        tree = _json(self.path / INDEX)
        homes = tree.get("weight_map")
        if not isinstance(homes, dict) or not all(isinstance(f, str) for f in homes.values()):
            raise ValueError(
                f"{self.path / INDEX} has no weight_map of names to files: get it again"
            )
        for file in {*homes.values()}:
            if "/" in file or "\\" in file or "\0" in file or not file.endswith(SUFFIX):
                raise ValueError(
                    f"{self.path / INDEX} names the file {file!r}, expected one of safetensors in "
                    "the same folder"
                )
        return homes


def header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of a file of safetensors. Raises ValueError if it is missing, damaged, or has
    but slices of them."""
    try:
        with open(file, "rb") as opened:
            entries, notes = read_header(opened, os.fstat(opened.fileno()).st_size)
        sliced = json.loads(notes.get(_SLICES, "{}"))
        if any(any(facts["saved_offsets"]) for facts in sliced.values()):
            raise ValueError("it has slices of tensors: write it with enable_consolidation=True")
    except FileNotFoundError:
        raise ValueError(f"{file} is missing: get it again") from None
    except OSError as error:
        raise _unreadable(file, error) from None
    except NO_SAFETENSORS as error:
        told = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{file} is damaged, or no file of safetensors ({told})") from None
    return entries


def read_header(opened: BinaryIO, size: int) -> tuple[dict[str, StoredTensor], Mapping[str, Any]]:
    """The tensors in a file of ``size`` bytes that is open at its beginning, and then at the first
    of them; and its notes. Raises OSError, and NO_SAFETENSORS for what is no such file."""
    length = int.from_bytes(opened.read(8), "little")
    if not 2 <= length <= min(LARGEST_HEADER, size - 8):
        raise ValueError("no header of safetensors at its beginning")
    tree = json.loads(opened.read(length))
    if not isinstance(tree, dict):
        raise ValueError("its header is no JSON object")
    notes = tree.pop("__metadata__", None) or {}
    return {name: _entry_of(facts, size, 8 + length) for name, facts in tree.items()}, notes


def read_tensor(opened: BinaryIO, entry: StoredTensor) -> Tensor:
    """That at which a file is open, in memory of its own. Raises OSError, and EOFError for a file
    that is cut short."""
    data = torch.empty(entry.size, dtype=torch.uint8, device="cpu")
    got = opened.readinto(data.numpy().data) if entry.size else 0  # type: ignore[attr-defined]
    if got != entry.size:
        raise EOFError
    return data.view(entry.dtype).reshape(entry.shape)


def _entry_of(facts: Any, size: int, start: int) -> StoredTensor:
    """Of what a header says, in a file of ``size`` bytes whose tensors begin at ``start``."""
    shape, (begin, end) = tuple(facts["shape"]), facts["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise ValueError("shapes and offsets have to be whole numbers")
    if facts["dtype"] not in DTYPES:
        raise ValueError(f"type {facts['dtype']!r} is not known")
    dtype = DTYPES[facts["dtype"]]
    if end - begin != prod(shape) * dtype.itemsize or start + end > size:
        raise ValueError(f"cut short: tensors end at byte {start + end} of {size}")
    return StoredTensor(dtype, shape, start + begin, end - begin)


# --- writing -------------------------------------------------------------------------------------


class Draft:
    """A folder that is being written, beside where it will stand."""

    def __init__(self, path: Path):
        self.path = path
        self._shards: list[str] = []

    def write(self, name: str, data: bytes) -> None:
        """A file that is no shard. Raises OSError."""
        with open(self.path / name, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def write_json(self, name: str, tree: Mapping[str, Any]) -> None:
        """As ``write``, laid out as transformers does it."""
        self.write(name, (json.dumps(tree, indent=2, ensure_ascii=False) + "\n").encode())

    def shard(
        self,
        number: int,
        of: int,
        tensors: Mapping[str, Tensor],
        dtype: torch.dtype | None = None,
    ) -> None:
        """Number 1 … ``of``, in the order of their names: equal tensors are equal bytes.
        ``dtype``: what floating-point numbers are written in; None: each as it is. Needs memory for
        one of ``tensors`` beside these. Raises OSError."""

        def type_of(tensor: Tensor) -> torch.dtype:
            return tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype

        name = SINGLE if of == 1 else f"model-{number:05d}-of-{of:05d}{SUFFIX}"
        tree: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at, ordered = 0, sorted(tensors.items())
        for key, tensor in ordered:
            end = at + tensor.numel() * type_of(tensor).itemsize
            facts = {"dtype": _NAMES[type_of(tensor)], "shape": list(tensor.shape)}
            tree[key] = facts | {"data_offsets": [at, end]}
            at = end
        text = json.dumps(tree).encode()
        text += b" " * (-len(text) % 8)  # so that numbers lie where a mapping can use them
        with open(self.path / name, "wb") as file:
            file.write(len(text).to_bytes(8, "little"))
            file.write(text)
            for _, tensor in ordered:
                flat = tensor.detach().cpu().to(type_of(tensor)).contiguous().flatten()
                file.write(flat.view(torch.uint8).numpy().data)
                del flat  # before the next one is there
            file.flush()
            os.fsync(file.fileno())
        self._shards.append(name)

    def finish(self) -> None:
        """Write the index, from the headers as they stand on the disk. Raises OSError, and
        ValueError if these are not what was written."""
        if self._shards != [SINGLE]:
            found = {name: header(self.path / name) for name in self._shards}
            homes = {key: name for name, entries in found.items() for key in entries}
            size = sum(entry.size for entries in found.values() for entry in entries.values())
            total = {"total_size": size}
            self.write_json(INDEX, {"metadata": total, "weight_map": dict(sorted(homes.items()))})
        _sync_folder(self.path)


@contextmanager
def draft_of(path: Path) -> Iterator[Draft]:
    """A folder to be at ``path`` once all of it is written: until then it is another one beside it,
    which goes if the writing fails, and which the next one takes over from a writer that was
    killed. Raises ValueError if something stands at ``path``, or somebody else writes there, and
    OSError."""
    path = Path(os.path.realpath(path))
    check_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    place = path.with_name(f".{path.name}.draft")
    place.mkdir(exist_ok=True)
    handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{path} is being written by another process: wait, or stop it"
            ) from None
        try:
            for left in place.iterdir():
                left.unlink()
            draft = Draft(place)
            yield draft
            draft.finish()
            check_free(path)
            os.rename(place, path)  # over an empty folder, too, and over no other
            _sync_folder(path.parent)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
    finally:
        os.close(handle)


def check_free(path: Path) -> None:
    """Raise ValueError unless a folder can be written at ``path``: it isn't there, or is empty."""
    try:
        if any(path.iterdir()):
            raise ValueError(f"{path} is not empty: give a folder that is, or a new one")
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise ValueError(f"{path} is a file: give a folder") from None


# --- files ---------------------------------------------------------------------------------------


def _json(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > LARGEST_JSON:
            raise ValueError(f"{file} is larger than any such file: get it again")
        tree = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{file} is missing: get it again") from None
    except OSError as error:
        raise _unreadable(file, error) from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise ValueError(f"{file} is damaged: it is no JSON") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{file} is damaged: it is no JSON object")
    return tree


def _sum_of(file: Path) -> str:
    total = hashlib.sha256()
    try:
        with open(file, "rb") as opened:
            while block := opened.read(1 << 20):
                total.update(block)
    except OSError as error:
        raise _unreadable(file, error) from None
    return total.hexdigest()


def _unreadable(path: Path, error: OSError) -> ValueError:
    return ValueError(f"{path} can't be read: {error.strerror or error}")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

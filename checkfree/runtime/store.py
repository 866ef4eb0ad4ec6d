"""The store: an actor that puts states on a disk and hands them out again.

It works over a small file port that the runtime supplies. An archive is a folder of safetensors,
one a stage, and a manifest with their sizes and SHA-256 sums that is written last and at once:
without it the archive does not exist. Nothing is handed out that fails its checksum.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from checkfree.core.ops import LEAD, Address, Upload
from checkfree.lead.membership import first_seats
from checkfree.messages.control import (
    AVERAGE,
    CHECKPOINT,
    HANDOVER,
    INIT,
    MERGED,
    RESUME,
    WEIGHTS,
    Archive,
    Archived,
    Message,
    Outgoing,
    StateRequest,
    Withdraw,
)
from checkfree.messages.tensors import KeepState, StageState, StateReply
from checkfree.models.folder import NO_SAFETENSORS, read_header, read_tensor

MANIFEST = "manifest.json"
LARGEST_MANIFEST = 1 << 24  # bytes
ANY_EPOCH = -1
_OTHER_SUM = "{} is damaged: its SHA-256 is not the manifest's"

BESIDE = (HANDOVER, RESUME)
"""Areas of which states travel while others train: they outdate nothing else."""

_Key = tuple[int, str, int]
"""Epoch, area and shelf."""


class Files(Protocol):
    """Where the store keeps its bytes. Names are relative, with forward slashes."""

    def write(self, name: str, data: bytes) -> None:
        """All of it or nothing, even if the machine stops. Raises RunFailed."""

    def read(self, name: str, limit: int) -> bytes:
        """Raises OSError, or ValueError for a file larger than ``limit`` bytes."""

    def open(self, name: str) -> BinaryIO:
        """To be read in parts. Raises OSError."""

    def names(self, folder: str) -> list[str]:
        """Of files and folders directly in ``folder``, sorted; none if it is not there."""

    def remove(self, folder: str) -> None:
        """A folder and all in it, its manifest first."""


class Damaged(ValueError):
    """An archive's file is missing, cut short or changed. The message says which and how."""


@dataclass
class _Order:
    archive: Archive
    parts: dict[Address, dict[str, Any]] = field(default_factory=dict)

    def stages(self) -> dict[str, dict[str, Any]]:
        """Parts by stage, each of the first of its seats."""
        return {str(seat.stage): self.parts[seat] for seat in first_seats(self.parts)}

    def held(self) -> dict[str, dict[str, Any]]:
        """What the other seats hold for other stages."""
        beside = self.parts.keys() - set(first_seats(self.parts))
        return {str(seat): self.parts[seat] for seat in sorted(beside)}


class Store:
    """Keeps the newest ``newest`` of checkpoints, snapshots and states to average, or as many as
    ``kept`` has of an area, those checkpoints that a snapshot needs, and what replays begin
    with."""

    def __init__(self, files: Files, newest: int = 3, kept: Mapping[str, int] | None = None):
        self._files = files
        self._newest = {**dict.fromkeys((CHECKPOINT, RESUME, AVERAGE), newest), **(kept or {})}
        self._epoch = -1
        self._inbox: deque[Message] = deque()
        self._orders: dict[_Key, _Order] = {}
        self._early: dict[_Key, list[KeepState]] = {}
        self._snapshot: _Key = (-1, RESUME, -1)
        """The newest that was ordered."""
        self._base: tuple[str, int] | None = None
        """Area and version of what replays begin with, if that is here."""

    def deliver(self, message: Message) -> None:
        self._inbox.append(message)

    def advance(self) -> list[Outgoing] | None:
        if not self._inbox:
            return None
        match message := self._inbox.popleft():
            case Archive():
                return self._open(message)
            case KeepState():
                return self._put(message)
            case Withdraw():
                return [(LEAD, self._withdraw(message.shelf))]
            case StateRequest():
                return [(message.reply_to, self._reply(message))]
        return []

    # --- writing ---------------------------------------------------------------------------------

    def _open(self, archive: Archive) -> list[Outgoing]:
        key = _key(archive)
        if self._overtaken(key):
            return []
        if archive.area == RESUME:
            self._snapshot = key
        if archive.area in (CHECKPOINT, RESUME):
            area, version = archive.note.get("base", ("", 0))
            self._base = (area, version) if area else None
        if archive.area not in BESIDE:
            self._epoch = archive.epoch
        for old in [old for old in self._orders if self._overtaken(old)]:
            del self._orders[old]
        self._early = {k: states for k, states in self._early.items() if not self._overtaken(k)}
        self._orders[key] = _Order(archive)
        if archive.area == CHECKPOINT:
            self.keep_only(CHECKPOINT, archive.known)
        if archive.area == AVERAGE:  # later ones are of a course that was left
            self.keep_only(AVERAGE, [s for s in self.offered(AVERAGE) if s < archive.shelf])
        if archive.area == HANDOVER:  # later orders may have come before this one
            later = [shelf for shelf in self.offered(HANDOVER) if shelf > archive.shelf]
            self.keep_only(HANDOVER, (*archive.known, *later))
        if archive.area != WEIGHTS:
            self.forget(archive.area, archive.shelf)
        out: list[Outgoing] = []
        for state in self._early.pop(key, []):
            out += self._put(state)
        return out

    def _overtaken(self, key: _Key) -> bool:
        """By an order of a later epoch, which all states will be of; a snapshot, which travels
        while others train, by the next one: if it is not whole by then, it never will be."""
        epoch, area, shelf = key
        if area == RESUME:
            return (shelf, epoch) < (self._snapshot[2], self._snapshot[0])
        return area != HANDOVER and epoch < self._epoch

    def _withdraw(self, shelf: int) -> Archived:
        """What has not come by now will not."""
        key = (ANY_EPOCH, HANDOVER, shelf)
        self._orders.pop(key, None)
        self._early.pop(key, None)
        return Archived(max(self._epoch, 0), HANDOVER, shelf, self.offered(HANDOVER))

    def _put(self, message: KeepState) -> list[Outgoing]:
        key = _key(message)
        order = self._orders.get(key)
        if order is None:
            if not self._overtaken(key):
                self._early.setdefault(key, []).append(message)
            return []
        owner = message.keep.owner
        if owner not in order.archive.seats or not _of_version(message, order.archive):
            return []  # nobody asked for it
        first = owner in first_seats(order.archive.seats)
        file = _of_stage(owner.stage) if first else _of_seat(owner)
        data = encode_state(message.state, weights_only=weights_only(message.area))
        self._files.write(f"{_folder(message.area, message.shelf)}/{file}", data)
        order.parts[owner] = {
            "file": file,
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        if len(order.parts) < len(order.archive.seats):
            return []
        del self._orders[key]
        return [(LEAD, self._close(order))]

    def _close(self, order: _Order) -> Archived:
        archive = order.archive
        manifest: dict[str, Any] = {
            "shelf": archive.shelf,
            "stages": order.stages(),
            "held": order.held(),
            "note": dict(archive.note),
        }
        folder = _folder(archive.area, archive.shelf)
        manifest["sha256"] = _sum_of(manifest)
        self._files.write(f"{folder}/{MANIFEST}", json.dumps(manifest, indent=1).encode())
        if archive.area in self._newest:
            self._prune(archive.area)
        offered = self.offered(archive.area)
        return Archived(archive.epoch, archive.area, archive.shelf, offered)

    def shelve(
        self, area: str, shelf: int, states: Mapping[int, StageState], note: Mapping[str, Any]
    ) -> None:
        """Write a whole archive at once: states by stage, each asked for when it is written."""
        owners = tuple(Address(stage) for stage in sorted(states))
        self.forget(area, shelf)
        archive = Archive(0, area, shelf, owners, (), note)
        self._orders[_key(archive)] = _Order(archive)
        for owner in owners:
            keep = Upload(owner)
            self._put(KeepState(0, keep, area, shelf, states[owner.stage]))

    def _prune(self, area: str) -> None:
        offered = self.offered(area)
        keep = set(offered[-self._newest[area] :])
        if area == RESUME:  # nor does anybody finish what a later one has overtaken
            for shelf in self._shelves(area):
                if shelf < offered[-1] and shelf not in offered:
                    self.forget(area, shelf)
        if area == CHECKPOINT:
            for snapshot in self.offered(RESUME):
                keep |= self._checkpoints_of(snapshot)
        if self._base is not None and self._base[0] == area:
            with suppress(Damaged):
                version = self._base[1]
                keep.add(self._snapshot_of(version) if area == RESUME else version)
        self.keep_only(area, keep)

    def _checkpoints_of(self, snapshot: int) -> set[int]:
        """Those that a run resumed from this snapshot would count on."""
        try:
            return set(self.note(RESUME, snapshot)["progress"]["checkpoints"])
        except (Damaged, KeyError, TypeError):
            return set()  # nothing will be resumed from it

    def keep_only(self, area: str, shelves: Collection[int]) -> None:
        """Forget all other archives of ``area``."""
        for shelf in self.offered(area):
            if shelf not in shelves:
                self.forget(area, shelf)

    def forget(self, area: str, shelf: int) -> None:
        """One archive."""
        self._files.remove(_folder(area, shelf))

    # --- reading ---------------------------------------------------------------------------------

    def offered(self, area: str) -> tuple[int, ...]:
        """The complete archives of an area, ascending."""
        return tuple(
            shelf
            for shelf, name in sorted(self._shelves(area).items())
            if MANIFEST in self._files.names(f"{area}/{name}")
        )

    def _shelves(self, area: str) -> dict[int, str]:
        """Those begun, too, and how their folders are called."""
        names = self._files.names(area)
        return {int(name): name for name in names if re.fullmatch("[0-9]{1,12}", name)}

    def merged(self) -> tuple[str, ...]:
        """The names of complete averages, in order."""
        names = self._files.names(MERGED)
        return tuple(n for n in names if MANIFEST in self._files.names(merged(n)))

    def note(self, area: str, shelf: int) -> Mapping[str, Any]:
        """What was noted with an archive. Raises Damaged."""
        note: Mapping[str, Any] = self._manifest(area, shelf)["note"]
        return note

    def load(self, area: str, shelf: int, stage: int) -> StageState:
        """One stage's state. Raises Damaged unless it is, byte for byte, what was written."""
        return self._state(*self._file_of(area, shelf, stage))

    def weights(self, stage: int, area: str = WEIGHTS, shelf: int = 0) -> dict[str, Tensor]:
        """One stage's parameters and buffers, by name: the finished ones, or those of another
        archive. Nothing else is in memory beside them. Raises Damaged."""
        name, part = self._file_of(area, shelf, stage)
        groups = ("",) if weights_only(area) else ("params:", "buffers:")
        found = dict[str, Tensor]()
        try:
            with self._files.open(name) as file:
                if _sum_of_file(file, int(part["bytes"])) != part["sha256"]:
                    raise Damaged(_OTHER_SUM.format(name))
                file.seek(0)
                entries, _ = read_header(file, int(part["bytes"]))
                for key, entry in entries.items():
                    group = next((g for g in groups if key.startswith(g)), None)
                    if group is not None:
                        file.seek(entry.start)
                        found[key.removeprefix(group)] = read_tensor(file, entry)
        except Damaged:
            raise
        except OSError as error:
            raise Damaged(f"{name}: {error}") from None
        except NO_SAFETENSORS as error:
            raise Damaged(f"{name} is no file of weights: {error!r}") from None
        return found

    def digest(self, area: str, shelf: int) -> str:
        """SHA-256 of an archive, which has those of its files. Raises Damaged."""
        return _sum_of(self._manifest(area, shelf))

    def load_held(self, area: str, shelf: int) -> dict[Address, Mapping[str, Tensor]]:
        """What seats held for other stages that are not the first of their own. Raises Damaged."""
        parts = self._manifest(area, shelf).get("held", {})
        seats = {Address.parse(seat): part for seat, part in parts.items()}
        folder = _folder(area, shelf)
        return {
            seat: self._state(f"{folder}/{_of_seat(seat)}", part).held
            for seat, part in seats.items()
        }

    def _file_of(self, area: str, shelf: int, stage: int) -> tuple[str, Mapping[str, Any]]:
        """Of a stage, with what the manifest says of it. Raises Damaged."""
        name = f"{_folder(area, shelf)}/{_of_stage(stage)}"
        part = self._manifest(area, shelf)["stages"].get(str(stage))
        if part is None:
            raise Damaged(f"{name}: the manifest names no stage {stage}")
        return name, part

    def _state(self, name: str, part: Mapping[str, Any]) -> StageState:
        return decode_state(self._bytes(name, part), name)

    def _bytes(self, name: str, part: Mapping[str, Any]) -> bytes:
        """A file, byte for byte as it was written. Raises Damaged."""
        try:
            data = self._files.read(name, int(part["bytes"]))
        except (OSError, ValueError) as error:
            raise Damaged(f"{name}: {error}") from None
        if len(data) != part["bytes"] or hashlib.sha256(data).hexdigest() != part["sha256"]:
            raise Damaged(_OTHER_SUM.format(name))
        return data

    def _handed_over(self, stage: int, version: int) -> int:
        """The shelf of what the last one of a stage handed on, at that version. Raises Damaged."""
        for shelf in reversed(self.offered(HANDOVER)):
            with suppress(Damaged, KeyError, TypeError):
                manifest = self._manifest(HANDOVER, shelf)
                if str(stage) in manifest["stages"] and manifest["note"]["committed"] == version:
                    return shelf
        raise Damaged(f"no good state of stage {stage} after {version} iterations was handed on")

    def _snapshot_of(self, version: int) -> int:
        """The newest snapshot of that version. Raises Damaged."""
        for shelf in reversed(self.offered(RESUME)):
            with suppress(Damaged, KeyError, TypeError):
                if self.note(RESUME, shelf)["progress"]["committed"] == version:
                    return shelf
        raise Damaged(f"no good snapshot after {version} iterations is left")

    def _manifest(self, area: str, shelf: int) -> dict[str, Any]:
        name = f"{_folder(area, shelf)}/{MANIFEST}"
        try:
            manifest: dict[str, Any] = json.loads(self._files.read(name, LARGEST_MANIFEST))
            expected = manifest.pop("sha256")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Damaged(f"{name} is damaged: {error!r}") from None
        if _sum_of(manifest) != expected:
            raise Damaged(f"{name} is damaged: its SHA-256 is not the one in it")
        return manifest

    def _reply(self, request: StateRequest) -> StateReply:
        source, shelf = request.source, request.source.version
        area = request.area if request.area in (HANDOVER, RESUME) else CHECKPOINT
        try:
            if area == HANDOVER:
                shelf = self._handed_over(source.of, source.version)
            if area == RESUME and source.version == 0 and self.offered(INIT):
                area = INIT
            elif area == RESUME:
                shelf = self._snapshot_of(source.version)
            state = self.load(area, shelf, source.of)
        except Damaged as error:
            return StateReply(request.epoch, source, None, str(error))
        return StateReply(request.epoch, source, state)


def _key(message: Archive | KeepState) -> _Key:
    """What brings an archive and its parts together. One epoch after another has its own; what is
    handed on has a shelf of its own in any."""
    epoch = ANY_EPOCH if message.area == HANDOVER else message.epoch
    return epoch, message.area, message.shelf


def _of_version(message: KeepState, archive: Archive) -> bool:
    """What is handed on is that of one version alone: an earlier lead may have counted shelves as
    this one does."""
    return archive.area != HANDOVER or archive.note.get("committed") == message.state.version


def merged(name: str) -> str:
    """The area of the averages that are called so."""
    return f"{MERGED}/{name}"


def weights_only(area: str) -> bool:
    """It has one archive, of parameters and buffers, for programs that know nothing of ours."""
    return area == WEIGHTS or area.startswith(f"{MERGED}/")


def _folder(area: str, shelf: int) -> str:
    return area if weights_only(area) else f"{area}/{shelf:08d}"


def _of_stage(stage: int) -> str:
    return f"stage-{stage}.safetensors"


def _of_seat(seat: Address) -> str:
    return f"held-{seat}.safetensors"


def _sum_of_file(file: BinaryIO, size: int) -> str:
    """Of a file, if it has so many bytes; else of none. Raises OSError."""
    total, left = hashlib.sha256(), size
    while block := file.read(1 << 20):
        total.update(block)
        left -= len(block)
    return total.hexdigest() if left == 0 else ""


def _sum_of(manifest: Mapping[str, Any]) -> str:
    """Of what it says, not of how that is laid out."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def encode_state(state: StageState, *, weights_only: bool = False) -> bytes:
    """A state as safetensors; what is no tensor stands in its metadata."""
    if weights_only:
        return safetensors.torch.save(dict(state.params) | dict(state.buffers))
    numbers = {
        "version": state.version,
        "gradient_norm": state.gradient_norm,
        "clipped_norm": state.clipped_norm,
        "lr_scale": state.lr_scale,
    } | ({"since": state.since} if state.heading else {})
    return safetensors.torch.save(dict(state.tensors()), {"checkfree": json.dumps(numbers)})


def decode_state(data: bytes, name: str = "state") -> StageState:
    """Inverse of :func:`encode_state`. Raises Damaged for anything else."""
    try:
        tensors = safetensors.torch.load(data)
        length = int.from_bytes(data[:8], "little")
        numbers = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["checkfree"])
        groups: dict[str, Any] = {"params": {}, "buffers": {}, "moments": {}}
        groups |= {"held": {}, "heading": {}}
        for key, tensor in tensors.items():
            group, _, inner = key.partition(":")
            groups[group][inner] = tensor
        return StageState(**groups, **numbers)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{name} is no state: {error!r}") from None

"""What autograd has saved of a microbatch, out of the way between its forward and its backward.

Autograd hands over each tensor that it saves (``saved_tensors_hooks``). Parameters, buffers, the
stage's input and output stay where they are, for they are held anyway, and so does what is small;
of all else the memory is moved, once however many tensors look at it, as soon as the forward is
over. From a GPU it goes to pinned memory of the host, on a stream of its own; else to a file, by a
thread. It comes back before the backward, so that autograd finds each tensor as it was, in type,
shape and bits.

What is moved, when it sets out and how much may be in memory: :mod:`checkfree.pipeline.stash`.

A file has no name, as those of :mod:`checkfree.runtime.disk_log` have none, so the system takes it
back when the process ends, however that ends. What the disk does not take stays in memory. What can
not be read, or is not what was written (a page that the disk has lost unseen), is computed again by
the same forward. So no disk changes a bit.
"""

from __future__ import annotations

import errno
import os
import threading
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Protocol

import torch
from torch import Tensor

from checkfree.core.ops import Op
from checkfree.pipeline.stash import Moves

LEAST = 4096
"""Bytes that are worth moving: a page, of memory or of a disk."""


@dataclass(frozen=True)
class Offloading:
    """How a stage moves what it has stashed. ``say`` is told in a line what goes wrong."""

    folder: Path
    """On a local disk; without use where the stage is on a GPU."""
    say: Callable[[str], None]
    chosen: Callable[[Sequence[Op]], Moves]
    """For the ops of a seat, in their order."""


class _Memory:
    """The memory of some saved tensors; ``bytes`` is None while it is away."""

    def __init__(self, flat: Tensor):
        self.bytes: Tensor | None = flat
        self.count = flat.nbytes


class _Saved:
    """A saved tensor, as autograd keeps it: the tensor itself, or how it lies in a memory."""

    __slots__ = ("changed", "dtype", "memory", "offset", "size", "stride", "tensor", "version")

    def __init__(self, tensor: Tensor, memory: _Memory | None):
        self.tensor: Tensor | None = tensor
        self.memory, self.version, self.changed = memory, tensor._version, False
        self.dtype, self.size, self.stride = tensor.dtype, tensor.size(), tensor.stride()
        self.offset = tensor.storage_offset()

    def let_go(self) -> None:
        """The memory alone is held. What is written to by now must not be used: autograd looks for
        that by itself only where nobody has hooks."""
        assert self.tensor is not None
        self.changed = self.tensor._version != self.version
        self.tensor = None

    def restored(self) -> Tensor:
        """The tensor as it was saved. Raises RuntimeError as autograd does, if it has been written
        to since."""
        found = self.tensor
        if self.changed or (found is not None and found._version != self.version):
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an "
                f"inplace operation: {self.dtype} {list(self.size)}"
            )
        if found is not None:
            return found
        assert self.memory is not None
        flat = self.memory.bytes
        assert flat is not None
        whole = torch.empty(0, dtype=self.dtype, device=flat.device)
        return whole.set_(flat.untyped_storage(), self.offset, self.size, self.stride)


class Parcel:
    """What is moved of one microbatch. ``entry``: what the stage was given; it, and ``kept``, are
    tensors whose memory is held anyway. What is on another device than it stays there."""

    def __init__(self, entry: Tensor, kept: Iterable[Tensor]):
        self._kept = {_address(tensor) for tensor in (entry, *kept)}
        self._device = entry.device
        self._memories: dict[int, _Memory] = {}
        self._saved: list[_Saved] = []
        self.memories: tuple[_Memory, ...] = ()
        self.state = HERE
        self.at = self.sum = 0
        """In a file: where it begins, and the CRC-32 of its bytes."""
        self.error: BaseException | None = None

    @property
    def bytes(self) -> int:
        return sum(memory.count for memory in self.memories)

    def saving(self) -> AbstractContextManager[None]:
        """What is saved within is put into it."""
        hooks: Any = torch.autograd.graph.saved_tensors_hooks
        made: AbstractContextManager[None] = hooks(self._pack, _Saved.restored)
        return made

    def close(self, y: Tensor) -> None:
        """The forward is over, and has made ``y``, which is held anyway."""
        kept = _address(y)
        for saved in self._saved:
            if saved.memory is not None and self._memories.get(kept) is saved.memory:
                saved.memory = None
            elif saved.memory is not None:
                saved.let_go()
        self._memories.pop(kept, None)
        self.memories = tuple(self._memories.values())
        self._memories, self._saved = {}, []

    def _pack(self, tensor: Tensor) -> _Saved:
        memory = None
        if _is_plain(tensor) and tensor.device == self._device:
            storage = tensor.untyped_storage()
            address = storage.data_ptr()
            if storage.nbytes() >= LEAST and address not in self._kept:
                if address not in self._memories:
                    flat = torch.empty(0, dtype=torch.uint8, device=tensor.device)
                    self._memories[address] = _Memory(flat.set_(storage))
                memory = self._memories[address]
        saved = _Saved(tensor, memory)
        self._saved.append(saved)
        return saved


def _is_plain(tensor: Tensor) -> bool:
    """Its bytes, type and strides are all that it is."""
    odd = tensor.is_conj() or tensor.is_neg() or tensor.is_quantized
    known = type(tensor) in (Tensor, torch.nn.Parameter)
    return known and tensor.layout is torch.strided and not odd


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if _is_plain(tensor) else 0


HERE, LEAVING, AWAY, COMING, LOST = "here", "leaving", "away", "coming", "lost"
"""States of a parcel. Leaving and coming, and before the former is over, its memory is taken."""


class Mover(Protocol):
    """What moves the parcels of a stage."""

    def put(self, parcel: Parcel) -> None:
        """Away, once what was put before is."""
        ...

    def ahead(self, parcel: Parcel) -> None:
        """Back, beside the op that computes."""
        ...

    def fetch(self, parcel: Parcel) -> bool:
        """Back, now. Returns False if it is lost."""
        ...


def mover_of(how: Offloading, device: torch.device) -> Mover:
    """The one for stages on this device. It has neither thread, file nor stream before it moves
    something, so it can be made before a fork."""
    return HostMover(device, how.say) if device.type == "cuda" else DiskMover(how.folder, how.say)


# --- to a file -----------------------------------------------------------------------------------


class _File:
    """Bytes without a name on a disk, in extents that are taken and given back. Raises OSError."""

    def __init__(self, folder: Path):
        with TemporaryFile(dir=folder, buffering=0) as file:
            self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)
        self._end = 0
        self._free: list[tuple[int, int]] = []
        self._given: deque[tuple[int, int]] = deque()

    def give(self, at: int, count: int) -> None:
        """Back, from whatever thread a parcel dies in, be it within ``take``."""
        self._given.append((at, count))

    def take(self, count: int) -> int:
        """Where so many bytes have room: the first place that has, else the end."""
        while self._given:
            self._free.append(self._given.popleft())
        merged: list[tuple[int, int]] = []
        for at, free in sorted(self._free):
            if merged and sum(merged[-1]) == at:
                at, free = merged[-1][0], merged.pop()[1] + free
            merged.append((at, free))
        if merged and sum(merged[-1]) == self._end:
            self._end = merged.pop()[0]
        self._free = merged
        for place, (at, free) in enumerate(self._free):
            if free >= count:
                self._free[place : place + 1] = [(at + count, free - count)] * (free > count)
                return at
        self._end += count
        return self._end - count

    def write(self, view: memoryview, at: int) -> None:
        while view:
            count = os.pwrite(self._descriptor, view, at)
            view, at = view[count:], at + count

    def read(self, view: memoryview, at: int) -> None:
        while view:
            count = os.preadv(self._descriptor, [view], at)
            if not count:
                raise OSError(errno.EIO, "a file has become shorter")
            view, at = view[count:], at + count


class DiskMover:
    """By a thread that lives as long as there is something to move."""

    def __init__(self, folder: Path, say: Callable[[str], None]):
        self._folder, self._say = folder, say
        self._works = True
        self._file: _File | None = None
        self._turn = threading.Condition()
        self._jobs: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None
        self._leaving = False

    def put(self, parcel: Parcel) -> None:
        with self._turn:
            self._turn.wait_for(lambda: not self._leaving)
            if not self._works or not parcel.memories:
                return
            parcel.state, self._leaving = LEAVING, True
            one = weakref.ref(parcel)  # given up meanwhile, it need not leave
            self._submit(lambda: self._leave(one()))

    def ahead(self, parcel: Parcel) -> None:
        with self._turn:
            if parcel.state == LEAVING:
                parcel.state = HERE
            elif parcel.state == AWAY:
                parcel.state = COMING
                self._submit(lambda: self._come(parcel))

    def fetch(self, parcel: Parcel) -> bool:
        self.ahead(parcel)
        with self._turn:
            self._turn.wait_for(lambda: parcel.state != COMING)
        if parcel.error is not None:
            raise parcel.error
        return parcel.state != LOST

    # A thread that was there before a fork is none in the process that was forked.
    def _submit(self, job: Callable[[], None]) -> None:
        self._jobs.append(job)
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, name="checkfree-stash")
            self._thread.start()

    def _work(self) -> None:
        while True:
            with self._turn:
                if not self._jobs:
                    self._thread = None
                    return
                job = self._jobs.popleft()
            job()
            del job  # and with it what it moved, which may be needed no more

    def _leave(self, parcel: Parcel | None) -> None:
        gone = False
        try:
            if parcel is not None and parcel.state == LEAVING:
                self._write(parcel)
                gone = True
        except OSError as error:
            self._works = False
            self._say(f"{self._told(error)}: what is stashed is kept in memory from now on")
        except BaseException as error:  # whoever needs it is told
            assert parcel is not None
            parcel.error = error
        finally:
            with self._turn:
                self._leaving = False
                if parcel is not None and parcel.state == LEAVING:
                    parcel.state = AWAY if gone else HERE
                    for memory in parcel.memories if gone else ():
                        memory.bytes = None
                self._turn.notify_all()

    def _write(self, parcel: Parcel) -> None:
        if self._file is None:
            self._file = _File(self._folder)
        at = parcel.at = self._file.take(parcel.bytes)
        weakref.finalize(parcel, self._file.give, at, parcel.bytes).atexit = False
        total = 0
        for memory in parcel.memories:
            assert memory.bytes is not None
            view = memory.bytes.numpy().data
            self._file.write(view, at)
            at, total = at + memory.count, zlib.crc32(view, total)
        parcel.sum = total

    def _come(self, parcel: Parcel) -> None:
        state = LOST
        try:
            state = HERE if self._read(parcel) else LOST
            if state == LOST:
                self._broken(OSError(errno.EIO, "what is read is not what was written"))
        except OSError as error:
            self._broken(error)
        except BaseException as error:  # whoever waits for it is told
            parcel.error = error
        finally:
            with self._turn:
                parcel.state = state
                self._turn.notify_all()

    def _read(self, parcel: Parcel) -> bool:
        """Whether it is as it was. Raises OSError."""
        assert self._file is not None
        at, total, found = parcel.at, 0, []
        for memory in parcel.memories:
            there = torch.empty(memory.count, dtype=torch.uint8)
            view = there.numpy().data
            self._file.read(view, at)
            at, total = at + memory.count, zlib.crc32(view, total)
            found.append(there)
        if total != parcel.sum:
            return False
        for memory, there in zip(parcel.memories, found, strict=True):
            memory.bytes = there
        return True

    def _broken(self, error: OSError) -> None:
        self._works = False
        self._say(
            f"{self._told(error)}: what was stashed there is computed again, and kept in memory "
            "from now on"
        )

    def _told(self, error: OSError) -> str:
        return f"stash_path={self._folder}: {error.strerror}"


# --- to the host's memory ------------------------------------------------------------------------


class HostMover:
    """By a stream beside the one that computes; no thread has to wait for it."""

    def __init__(self, device: torch.device, say: Callable[[str], None]):
        self._device, self._say = device, say
        self._works = True
        self._stream: torch.cuda.Stream | None = None
        self._left: torch.cuda.Event | None = None
        self._hosts: weakref.WeakKeyDictionary[Parcel, list[Tensor]] = weakref.WeakKeyDictionary()
        self._back: weakref.WeakKeyDictionary[Parcel, torch.cuda.Event] = (
            weakref.WeakKeyDictionary()
        )

    def put(self, parcel: Parcel) -> None:
        if self._left is not None:  # the host must not run ahead of what is in flight
            self._left.synchronize()
        if not self._works or not parcel.memories:
            return
        try:
            hosts = [
                torch.empty(memory.count, dtype=torch.uint8, pin_memory=True)
                for memory in parcel.memories
            ]
        except RuntimeError as error:
            self._works = False
            why = str(error).partition("\n")[0]
            self._say(f"stash=offload: {why}: what is stashed is kept on {self._device}")
            return
        stream = self._beside()
        with torch.cuda.stream(stream):
            for memory, host in zip(parcel.memories, hosts, strict=True):
                assert memory.bytes is not None
                host.copy_(memory.bytes, non_blocking=True)
                memory.bytes.record_stream(stream)  # given back once it is copied, not before
                memory.bytes = None
            self._left = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._left.record(stream)
        self._hosts[parcel] = hosts
        parcel.state = AWAY

    def ahead(self, parcel: Parcel) -> None:
        if parcel.state != AWAY:
            return
        found = [
            torch.empty(memory.count, dtype=torch.uint8, device=self._device)
            for memory in parcel.memories
        ]
        stream = self._beside()  # what had that memory before is done with it
        with torch.cuda.stream(stream):
            for memory, there, host in zip(
                parcel.memories, found, self._hosts.pop(parcel), strict=True
            ):
                there.copy_(host, non_blocking=True)
                there.record_stream(stream)
                memory.bytes = there
            event = self._back[parcel] = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(stream)
        parcel.state = COMING

    def fetch(self, parcel: Parcel) -> bool:
        self.ahead(parcel)
        if parcel.state == COMING:
            torch.cuda.current_stream(self._device).wait_event(self._back.pop(parcel))
            parcel.state = HERE
        return True

    def _beside(self) -> torch.cuda.Stream:
        """The stream, behind all that the computing one has been given so far."""
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        return self._stream

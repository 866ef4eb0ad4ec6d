"""A seat's log of what it sent on a local disk, for machines that have more of that than of memory.

Its files have no name, so the system takes them back when the process ends, however that ends. They
are bytes of tensors, one after the other; what these are, and where, stands in memory. Nothing is
synced: no other process has any use for it. A page that the disk has lost unseen shows in the
sum by which each replay is checked.

What the disk does not take stays in memory, so that the lead, which has been told of it, can count
on it. Of what can't be read it is told, and the disk is not tried again.
"""

from __future__ import annotations

import errno
import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import torch
from torch import Tensor

from checkfree.core.ops import Address
from checkfree.messages.tensors import Activation, Gradient, tensor_bytes, tensors_of
from checkfree.worker.log import LogLost, Sent, in_host_memory

PARTS = 16
"""Files that a log which no longer grows is in, about: more would be as many descriptors for every
seat of a process, of fewer much would wait to be given back."""
LEAST = 1 << 20
"""Bytes that a file is worth."""


def most_bytes(log: int) -> int:
    """What so many bytes of a log take on the disk, with those that wait to be given back."""
    return log + max(log // (PARTS - 1), LEAST)


class _Segment:
    """A file that grows until another is begun, and goes when nothing in it is needed. ``live``:
    messages that are."""

    def __init__(self, folder: Path):
        with TemporaryFile(dir=folder, buffering=0) as file:  # it has lost its name already
            self._descriptor = os.dup(file.fileno())
        self.close = weakref.finalize(self, os.close, self._descriptor)
        self.size = self.live = 0

    def write(self, tensors: Iterable[Tensor]) -> None:
        """At its end: all of them or none. Raises OSError."""
        at = self.size
        try:
            for tensor in tensors:
                view = _bytes(tensor)
                while view:
                    count = os.pwrite(self._descriptor, view, at)
                    view, at = view[count:], at + count
        except OSError:
            os.ftruncate(self._descriptor, self.size)
            raise
        self.size = at

    def read(self, like: Tensor, at: int) -> Tensor:
        """One of that shape and type from there. Raises OSError."""
        found = torch.empty(like.shape, dtype=like.dtype)
        view = _bytes(found)
        while view:
            count = os.preadv(self._descriptor, [view], at)
            if not count:
                raise OSError(errno.EIO, "a file has become shorter")
            view, at = view[count:], at + count
        return found


class _Kept(NamedTuple):
    """To whom, and what; if that is in a file, without its numbers, which are there from ``at``
    on: those of the tensor, then the scales."""

    to: Address
    message: Activation | Gradient
    segment: _Segment | None = None
    at: int = 0

    def read(self) -> Sent:
        """Whole. Raises OSError."""
        message, segment = self.message, self.segment
        if segment is None:
            return self.to, message
        tensor, scales = segment.read(message.tensor, self.at), message.scales
        if scales is not None:
            scales = segment.read(scales, self.at + tensor.nbytes)
        return self.to, replace(message, tensor=tensor, scales=scales)


class DiskLog:
    """A ``Log`` in a folder. ``say`` is told in a line what goes wrong; nothing is raised for it
    but LogLost."""

    def __init__(self, folder: Path, say: Callable[[str], None]):
        self._folder, self._say = folder, say
        self._works = True
        self._sent: dict[int, tuple[_Kept, ...]] = {}
        self._segments: list[_Segment] = []
        """All that are open; the last one grows."""

    def add(self, iteration: int, sent: Sequence[Sent]) -> None:
        self._forget([iteration])
        self._sent[iteration] = self._kept(sent)

    def extend(self, iteration: int, sent: Sequence[Sent]) -> None:
        if iteration in self._sent:
            self._sent[iteration] += self._kept(sent)

    def trim(self, since: int | None) -> None:
        self._forget([i for i in self._sent if since is None or i < since])

    def cut(self, until: int) -> None:
        self._forget([i for i in self._sent if i >= until])

    def whole_since(self, version: int) -> int:
        since = version
        while since - 1 in self._sent:
            since -= 1
        return since

    def of(self, iteration: int, stage: int | None = None) -> tuple[Sent, ...]:
        kept = self._sent.get(iteration, ())
        try:
            return tuple(one.read() for one in kept if stage is None or one.to.stage == stage)
        except OSError as error:
            self._works = False
            gone = [i for i, kept in self._sent.items() if any(one.segment for one in kept)]
            self._forget(gone)
            self._say(f"{self._told(error)}: what this seat has sent is kept in memory from now on")
            raise LogLost(1 + max(gone)) from error

    @property
    def bytes(self) -> int:
        return sum(tensor_bytes(one.message) for kept in self._sent.values() for one in kept)

    @property
    def bytes_on_disk(self) -> int:
        """With those that wait to be given back."""
        return sum(segment.size for segment in self._segments)

    def _kept(self, sent: Sequence[Sent]) -> tuple[_Kept, ...]:
        """On the disk, or in memory if it does not take it."""
        if self._works and sent:
            try:
                return self._written(sent)
            except OSError as error:
                self._tidy()
                self._say(f"{self._told(error)}: what it does not take is kept in memory")
        return tuple(_Kept(to, in_host_memory(message)) for to, message in sent)

    def _written(self, sent: Sequence[Sent]) -> tuple[_Kept, ...]:
        if not self._segments or self._segments[-1].size >= max(LEAST, self.bytes_on_disk // PARTS):
            self._segments.append(_Segment(self._folder))
        segment = self._segments[-1]
        at = segment.size
        segment.write(tensor for _, message in sent for tensor in tensors_of(message))
        found = []
        for to, message in sent:
            found.append(_Kept(to, _without_numbers(message), segment, at))
            at += tensor_bytes(message)
        segment.live += len(found)
        return tuple(found)

    def _forget(self, iterations: Iterable[int]) -> None:
        for iteration in iterations:
            for kept in self._sent.pop(iteration, ()):
                if kept.segment is not None:
                    kept.segment.live -= 1
        self._tidy()

    def _tidy(self) -> None:
        """Give back what nothing is left in."""
        for segment in self._segments:
            if not segment.live:
                segment.close()
        self._segments = [segment for segment in self._segments if segment.live]

    def _told(self, error: OSError) -> str:
        return f"recovery.log_path={self._folder}: {error.strerror}"


def _without_numbers(message: Activation | Gradient) -> Activation | Gradient:
    scales = None if message.scales is None else message.scales.to("meta")
    return replace(message, tensor=message.tensor.to("meta"), scales=scales)


def _bytes(tensor: Tensor) -> memoryview:
    """Of the tensor itself, where it is on the CPU and contiguous."""
    flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return flat.numpy().data

"""How a process that trains is set up: threads for equal bits, memory for speed."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEPT, _PAD, _LARGEST = 2**31 - 1, 64 * 2**20, 32 * 2**20


@contextmanager
def settled(threads: int) -> Iterator[None]:
    """torch runs on so many threads, and memory that is freed stays with the process."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    keep_freed_memory()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Tell glibc, where it is the allocator, not to give memory back between microbatches.

    A pipeline stashes several microbatches, frees them, and stashes as much again an iteration
    later. By default each of these pages is given back, faulted in and zeroed once more: 10,000
    page faults an iteration of the demo, a twentieth of its time.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_TOP_PAD, _PAD)

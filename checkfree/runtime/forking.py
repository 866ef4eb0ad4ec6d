"""What a process that forks others heeds: that it has one thread, and what its forks share."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Sequence

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""What has to stand in the environment before numpy is imported, whose libraries start a thread a
core otherwise. How many torch computes on is set later, by the configuration."""


def count_threads() -> int:
    """Of this process, those of libraries among them."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:  # no Linux
        return threading.active_count()


def render_threads() -> str | None:
    """What is wrong with forking now, if anything is. A line."""
    count = count_threads()
    if count == 1:
        return None
    return (
        f"{count} threads run in the process that forks the others, started by something that was "
        "imported: a fork may hang on a lock that one of them held"
    )


def count_cuda_devices() -> int:
    """Of this machine, with no trace left in this process.

    torch asks NVIDIA's management library, which starts a thread in whoever asks, and what has a
    second thread can't be forked safely. So a fork asks, unless it is too late for that.
    """
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return 0
    if count_threads() > 1:
        return torch.cuda.device_count()
    pid = os.fork()
    if pid == 0:
        count = 0
        try:
            count = torch.cuda.device_count()
        finally:
            os._exit(count)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def device_names(devices: Sequence[str]) -> tuple[str, ...]:
    """Of each what it is: cpu, or a GPU's name with its CUDA version. With no trace left in this
    process: to ask a GPU makes a context, which no fork survives."""
    import torch

    cpus = all(torch.device(device).type == "cpu" for device in devices)
    if cpus or count_threads() > 1 or torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return tuple(map(_device_name, devices))
    told = ask_fork(lambda: "\n".join(map(_device_name, devices)))
    return tuple(told.split("\n")) if told else tuple(devices)


def gpu_memory(device: str) -> int:
    """Bytes that a GPU has, with no trace left in this process; 0: there is no such one."""
    import torch

    def told() -> str:
        try:
            return str(torch.cuda.get_device_properties(torch.device(device)).total_memory)
        except (RuntimeError, AssertionError):
            return ""

    late = count_threads() > 1 or torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return int((told() if late else ask_fork(told)) or 0)


def ask_fork(answer: Callable[[], str]) -> str:
    """What ``answer`` says, in a fork of this process that leaves no trace here; nothing, if it
    dies of it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            with open(writer, "w", encoding="utf-8", errors="replace") as told:
                told.write(answer())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as told:
        found = told.read()
    os.waitpid(pid, 0)
    return found


def _device_name(device: str) -> str:
    import torch

    where = torch.device(device)
    if where.type != "cuda" or not torch.cuda.is_available():
        return where.type
    try:
        return f"{torch.cuda.get_device_name(where)}, CUDA {torch.version.cuda}"
    except (RuntimeError, AssertionError):  # there is no such one: who computes there says so
        return device


def keep_for_forks() -> None:
    """Before forking: all that is here stays, and no fork looks for garbage among it.

    A fork that did would write to every object, and so make a copy of all that it shares. And
    Python looks among old objects only when a quarter as many new ones have grown old: beside the
    million that torch and hivemind are, a fork's own garbage would not be found for hours. The
    second collection counts the old ones anew: there are none.
    """
    gc.collect()
    gc.freeze()
    gc.collect()

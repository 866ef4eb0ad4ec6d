"""Child processes that train, a bounded number at a time. All of them end when the pool does."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import IO

from checkfree.compare import child
from checkfree.config import Config

PATIENCE = 20.0
"""Seconds that a child has to save its run when it is told to stop."""


@dataclass(frozen=True)
class Ended:
    """A child that has ended."""

    key: str
    code: int
    lines: Sequence[str]
    """All that it said on standard error."""

    @property
    def last(self) -> str:
        """Its last words."""
        return self.lines[-1] if self.lines else f"exit code {self.code}"


@dataclass(frozen=True)
class _Running:
    process: subprocess.Popen[bytes]
    said: IO[bytes]
    slot: int


class Pool:
    """``slots``: per worker, what its children find in their environment beside ours."""

    def __init__(self, slots: Sequence[Mapping[str, str]]):
        self._slots = slots
        self._running: dict[str, _Running] = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def keys(self) -> tuple[str, ...]:
        """Of the children that run."""
        return tuple(self._running)

    @property
    def free(self) -> int:
        """How many more children may start."""
        return len(self._slots) - len(self._running)

    def start(self, key: str, words: Sequence[str]) -> None:
        """Run ``checkfree WORDS``."""
        taken = {running.slot for running in self._running.values()}
        slot = next(place for place in range(len(self._slots)) if place not in taken)
        command = [sys.executable, "-m", child.__name__, str(os.getpid()), *words]
        said = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the child has ended)
        process = subprocess.Popen(
            command,
            env={**os.environ, **self._slots[slot]},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,  # a Ctrl-C is for us: we stop them, once
        )
        self._running[key] = _Running(process, said, slot)

    def ended(self) -> list[Ended]:
        """The children that have ended since the last call."""
        codes = {key: running.process.poll() for key, running in self._running.items()}
        return [self._take(key, code) for key, code in codes.items() if code is not None]

    def _take(self, key: str, code: int) -> Ended:
        running = self._running.pop(key)
        with running.said as said:
            said.seek(0)
            lines = said.read().decode(errors="replace").splitlines()
        return Ended(key, code, [line for line in lines if line.strip()])

    def stop(self) -> None:
        """Have all children save what they have, and wait; none outlives this call."""
        try:
            for running in self._running.values():
                running.process.terminate()
            end = time.monotonic() + PATIENCE
            for running in self._running.values():
                _wait(running.process, end - time.monotonic())
        finally:
            for running in self._running.values():
                running.process.kill()
                running.process.wait()
                running.said.close()
            self._running.clear()


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        return


def slots(workers: int | None, devices: Sequence[str], config: Config) -> list[dict[str, str]]:
    """Environments for the children: one of ``devices`` each, in turn, and as many threads as
    ``config`` has.

    By default as many as there are devices; as the cores have room for; one if all runs are on
    the same GPU.
    """
    threads, on_cpu = config.threads, set(config.devices) == {"cpu"}
    count = workers or len(devices) or (max(1, cores() // threads) if on_cpu else 1)
    shared = {"OMP_NUM_THREADS": str(threads)}
    return [{**shared, **_shown(devices, place)} for place in range(count)]


def cores() -> int:
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _shown(devices: Sequence[str], place: int) -> dict[str, str]:
    """The one device that a child sees."""
    if not devices or devices[0] == "cpu":
        return {}
    number = int(devices[place % len(devices)].partition(":")[2] or 0)
    outer = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return {"CUDA_VISIBLE_DEVICES": outer[number] if number < len(outer) else str(number)}

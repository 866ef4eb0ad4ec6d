"""Child processes that train, a bounded number at a time. All of them end when the pool does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType

from checkfree.core.config import Config
from checkfree.runtime.files import temporary_folder
from checkfree.study.fork_server import ForkServer

PATIENCE = 20.0
"""Seconds that a child has to save its run when it is told to stop."""
LOOK = 0.02
"""Seconds between two looks at whether a child has ended."""


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
    said: Path
    slot: int


class Pool:
    """``slots``: per worker, what its children find in their environment beside ours."""

    def __init__(self, slots: Sequence[Mapping[str, str]]):
        self._slots = slots
        self._running: dict[str, _Running] = {}
        self._server: ForkServer | None = None
        self._folder = temporary_folder("checkfree-study-")
        self._files = count()

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
        said = Path(self._folder.name) / str(next(self._files))
        self._served(self._slots[slot]).start(key, words, self._slots[slot], said)
        self._running[key] = _Running(said, slot)

    def ended(self) -> list[Ended]:
        """The children that have ended since the last call."""
        codes = self._server.ended() if self._server is not None else {}
        return [self._take(key, code) for key, code in codes.items()]

    def _served(self, env: Mapping[str, str]) -> ForkServer:
        """Another server, if somebody killed the last; its children ended with it."""
        if self._server is not None and not self._server.alive and not self._running:
            self._server.close()
            self._server = None
        if self._server is None:
            self._server = ForkServer(env)
        return self._server

    def _take(self, key: str, code: int) -> Ended:
        running = self._running.pop(key)
        text = running.said.read_text(errors="replace") if running.said.exists() else ""
        return Ended(key, code, [line for line in text.splitlines() if line.strip()])

    def stop(self) -> None:
        """Have all children save what they have, and wait; none outlives this call."""
        try:
            self._end_all(signal.SIGTERM, PATIENCE)
        finally:
            self._end_all(signal.SIGKILL, PATIENCE)
            if self._server is not None:
                self._server.close()
            self._running.clear()
            self._folder.cleanup()

    def _end_all(self, number: int, within: float) -> None:
        end = time.monotonic() + within
        for key in self._running:
            assert self._server is not None
            self._server.send_signal(key, number)
        while self._running and time.monotonic() < end:
            self.ended()
            time.sleep(LOOK)


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

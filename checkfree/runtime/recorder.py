"""Writes the lead's records down, one JSON object a line, and puts the time to them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from checkfree.core.errors import cannot_write
from checkfree.core.goodput import Goodput
from checkfree.core.live import LiveStatus
from checkfree.core.records import (
    FailureRecord,
    IterationRecord,
    PlanRecord,
    Record,
    RecoveryRecord,
    ValidationRecord,
    dumps,
)
from checkfree.messages.control import Message, Note, Outgoing, Underway
from checkfree.runtime.replay_times import ReplayTimes

Listener = Callable[[Record], None]


@runtime_checkable
class LiveListener(Protocol):
    """A listener that is also told how the run goes between its records."""

    def __call__(self, record: Record) -> None: ...

    def live(self, status: LiveStatus) -> None:
        """As it is now."""


class Recorder:
    """The actor at the log's address. ``lr`` gives the schedule's rate of an iteration.

    A record's seconds run from the record before it; a recovery's from its failure (if nothing
    failed, as when somebody left: from the record before) to the plan that ended it, so that the
    validation after it does not count. So those of all records add up to the time that passed.
    """

    def __init__(
        self,
        path: Path,
        lr: Callable[[int], float],
        listeners: Sequence[Listener] = (),
    ):
        self._path = path
        # Unbuffered: what a full disk refused must not come out later, in the middle of the file.
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (lives as long as the run)
        self._lr, self._listeners = lr, listeners
        self._since = time.perf_counter()
        self._failed_at: float | None = None
        self._repaired_in = 0.0
        self._replays, self._goodput = ReplayTimes(), Goodput()
        self._live = LiveStatus()

    def resume(self, records: Iterable[Mapping[str, Any]]) -> None:
        """After these, which stand there already."""
        for record in records:
            self._goodput.add(record["kind"], record)

    def deliver(self, message: Message) -> None:
        match message:  # in a swarm, anybody may send anything
            case Note():
                self._note(message.record)
            case Underway():
                replays = self._replays.follow(message, time.perf_counter())
                self._tell(replays=replays, unprotected=message.unprotected)

    def _note(self, record: Record) -> None:
        record = self._timed(record)
        self._goodput.add(record.kind, vars(record))
        if isinstance(record, PlanRecord):
            self._replays.planned(record)
        if not isinstance(record, IterationRecord):
            return self.write(record)
        self._tell(goodput=self._goodput.share)
        self.write(record)
        for replay in self._replays.stepped(record.tick, time.perf_counter()):
            self.write(replay)

    def _tell(self, **changes: Any) -> None:
        self._live = replace(self._live, **changes)
        for listener in self._listeners:
            if isinstance(listener, LiveListener):
                listener.live(self._live)

    def advance(self) -> list[Outgoing] | None:
        return None

    def write(self, record: Record) -> None:
        """Append one record. Raises RunFailed, leaving the lines before it whole."""
        line = (dumps(record) + "\n").encode()
        good = os.fstat(self._file.fileno()).st_size
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            os.ftruncate(self._file.fileno(), good)
            raise cannot_write(self._path, error) from error
        for listener in self._listeners:
            listener(record)

    def close(self) -> None:
        """All that was written is on the disk."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()

    def _timed(self, record: Record) -> Record:
        now = time.perf_counter()
        passed, self._since = now - self._since, now
        match record:
            case IterationRecord():
                record = replace(record, seconds=passed, lr=self._lr(record.iteration))
            case ValidationRecord():
                record = replace(record, seconds=passed)
            case FailureRecord():
                record, self._failed_at = replace(record, seconds=passed), now
            case PlanRecord() if record.rebuilds:
                self._repaired_in = passed if self._failed_at is None else now - self._failed_at
                self._failed_at = None
            case PlanRecord():  # without whoever was lost, if anybody was
                record, self._failed_at = replace(record, seconds=passed), None
            case RecoveryRecord():
                record = replace(record, seconds=self._repaired_in)
        return record

"""The last record of a run whose lead could not write it: none lives, or its disk was full."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from checkfree.core.errors import BadInput, RunFailed
from checkfree.core.records import RECORDS, EndRecord, ended, read, recoveries
from checkfree.lead import history
from checkfree.runtime import folder as folders
from checkfree.runtime.recorder import Recorder


def write_end(run: Path, status: str, reason: str) -> None:
    """Unless it stands there, or the run has no records yet. Nobody else may write to them."""
    if not (run / RECORDS).is_file():
        return
    with suppress(RunFailed, BadInput, OSError):  # a disk that is full stays full
        folders.mend(run)
        records = read(run)
        if not records or ended(records):
            return
        p = history(records, {}).progress
        recorder = Recorder(run / RECORDS, lambda iteration: 0.0)
        made = recoveries(records)
        recorder.write(EndRecord(status, p.committed, p.tick, reason, made))
        recorder.close()

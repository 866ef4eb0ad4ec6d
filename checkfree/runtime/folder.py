"""A run's folder: what stands in it, who may write to it, and how it is picked up again."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from errno import EISDIR
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from checkfree.core.errors import BadInput
from checkfree.core.records import (
    LEADS_OWN,
    RECORDS,
    AverageRecord,
    ProcessRecord,
    ReplayRecord,
    of_kind,
    read,
)
from checkfree.messages.control import WEIGHTS
from checkfree.runtime.files import write_whole

CONFIG, TRACE, PICTURE, VERSIONS = "config.yaml", "trace.json", "loss.png", "versions.json"
SUPERSEDED = "superseded.jsonl"
TOKENIZER = "tokenizer"
"""The folder with the files of the run's tokenizer, where it has one."""
ROSTER = ".swarm/roster.json"
"""Who has states of a swarm's run, and may come back with them: as long as it isn't taken back."""


def create(path: Path, again: str = "checkfree train") -> Path:
    """An empty run folder. Raises BadInput if there is a run already, which ``again`` goes on
    with, or no place for one."""
    if _is_file(path / RECORDS):
        raise BadInput(
            f"{path} holds a run already: give another out=FOLDER, or go on with it by "
            f"{again} --resume {shlex.quote(str(path))}"
        )
    if _is_file(path / CONFIG):
        raise BadInput(
            f"{path} holds a {CONFIG} that a run would overwrite: give another out=FOLDER"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=path).close()  # without a name: others may watch for the records
        if (path / RECORDS).exists():
            raise IsADirectoryError(EISDIR, f"its {RECORDS} is no file")
    except OSError as error:
        raise BadInput(f"out={path} cannot be written: {error.strerror}; give another") from None
    return path


def begin(
    path: Path,
    config: str,
    trace: str,
    records: Iterable[str] = (),
    versions: Mapping[str, str] | None = None,
) -> None:
    """Write what stands in a run folder from the start: texts of its configuration and failures,
    lines that are recorded already, and the versions of what trains it, if anything does. The
    records come last: a folder that has them can be resumed. One that could not get all of it has
    what it had before, so that a run may begin there once it can. Raises RunFailed."""
    files = [path / name for name in (VERSIONS, TRACE, CONFIG, RECORDS)]
    new = [file for file in files if not file.exists()]
    try:
        if versions is not None:
            write_json(path / VERSIONS, versions)
        write_whole(path / TRACE, trace.encode())
        write_whole(path / CONFIG, config.encode())
        write_whole(path / RECORDS, "".join(f"{line}\n" for line in records).encode())
    except BaseException:
        for file in new:
            file.unlink(missing_ok=True)
        raise


def begun(path: Path) -> bool:
    """A run that can be gone on with has this folder."""
    return all(_is_file(path / name) for name in (RECORDS, CONFIG))


def existing(path: Path) -> Path:
    """The folder of a run to resume. Raises BadInput if it is none, or its records are damaged."""
    if not begun(path):
        raise BadInput(
            f"{path} is no run folder ({CONFIG} and {RECORDS} expected): give the out=FOLDER of "
            "the run that you want to go on"
        )
    try:
        read(path)
    except BadInput as error:
        raise BadInput(f"{path} cannot be resumed: {error}; start anew with another out=") from None
    return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, for one
        return False


def finished(path: Path) -> bool:
    """The run in this folder came to its end."""
    ends = of_kind(read(path), "end")
    return bool(ends) and ends[-1]["status"] == "done" and (path / WEIGHTS).is_dir()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else trains in this folder meanwhile. Raises BadInput if somebody does."""
    try:
        lock = open(path / ".lock", "w")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise BadInput(f"{path} cannot be locked: {error.strerror}; give another out=") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BadInput(f"{path} is being trained by another process: wait or stop it") from None
        yield


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    write_whole(path, (json.dumps(value, indent=1) + "\n").encode())


def mend(path: Path) -> None:
    """Take off a last record that was cut short when its writer was killed."""
    file = path / RECORDS
    if file.is_file():
        whole = file.read_bytes().rpartition(b"\n")
        os.truncate(file, len(whole[0]) + len(whole[1]))


def count_notes(path: Path) -> int:
    """Records that the lead has made of this run."""
    return sum(record["kind"] in LEADS_OWN for record in read(path))


def reopen(path: Path) -> None:
    """Have the records go on where they ended."""
    mend(path)
    _take_back(path, count_notes(path))


def rewind(path: Path, notes: int) -> None:
    """Take the records back to the first ``notes`` of the lead's; the rest, which a resumed run
    makes again, goes to a file beside them, and with it who took part in that alone, and what was
    replayed then."""
    (path / ROSTER).unlink(missing_ok=True)
    _take_back(path, notes)


def _take_back(path: Path, notes: int) -> None:
    kept: list[str] = []
    superseded: list[str] = []
    seen = 0
    for record in read(path):
        own = record["kind"] in LEADS_OWN
        late = seen > notes and record["kind"] in (ProcessRecord.kind, ReplayRecord.kind)
        ends = record["kind"] in ("end", "ledger", AverageRecord.kind)
        drop = ends or (own and seen >= notes) or late
        (superseded if drop else kept).append(json.dumps(record))
        seen += own
    with open(path / SUPERSEDED, "a", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in superseded)
    write_whole(path / RECORDS, "".join(line + "\n" for line in kept).encode())

"""How far the run of a cell has come, by what stands in its folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

from checkfree.config.load import load_saved, to_tree
from checkfree.config.places import INIT_RUN, WHERE
from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.core.formats import SIGNS
from checkfree.core.records import RECORDS, read
from checkfree.core.typed import written
from checkfree.failures import is_trace_file, render_trace
from checkfree.messages.control import AVERAGE, CHECKPOINT, INIT, MERGED, RESUME, WEIGHTS
from checkfree.models.hub import folder_of, has_weights
from checkfree.recovery.options import ReplayOptions
from checkfree.recovery.registry import STRATEGIES
from checkfree.runtime.files import DiskFiles
from checkfree.runtime.folder import CONFIG, PICTURE, SUPERSEDED, TOKENIZER, TRACE, VERSIONS
from checkfree.runtime.store import Damaged, Store
from checkfree.session.due import DueFailures
from checkfree.session.initial import digest_of
from checkfree.session.job import recorded_config
from checkfree.session.wired import with_choices
from checkfree.study.plan import Cell

OURS = (CONFIG, VERSIONS, TRACE, RECORDS, SUPERSEDED, PICTURE, ".lock")
OUR_FOLDERS = (INIT, RESUME, CHECKPOINT, WEIGHTS, TOKENIZER, AVERAGE, MERGED)

Records = Sequence[Mapping[str, Any]]


class State(Enum):
    """Of a cell's run."""

    NEW = "new"
    STOPPED = "stopped"
    """Killed or interrupted, with something to go on from."""
    DONE = "done"
    """To its end, or to where its strategy could not save it."""


@dataclass(frozen=True)
class CellStanding:
    """Of a cell: how far it is, with all of its records if it is done."""

    state: State
    records: Records = ()


def standing(cell: Cell, results: Path | None) -> CellStanding:
    """From the cell's run folder, else from its compact record. Raises BadInput if either is of
    another configuration, or damaged."""
    try:
        return _standing(cell, results)
    except OSError as error:
        raise BadInput(
            f"{cell.folder} cannot be read: {error.strerror}; give another --out"
        ) from None


def _standing(cell: Cell, results: Path | None) -> CellStanding:
    found = _of_folder(cell)
    if found.state is not State.DONE and results is not None:
        path = compact_path(results, cell)
        if path.exists():
            records = checked_records(path)
            _check_same(cell.config, _config_of(path, records), records[0].get("init", {}), path)
            return CellStanding(State.DONE, records)
    return found


def compact_path(results: Path, cell: Cell) -> Path:
    """Where the compact record of a cell stands in a folder of results."""
    return results / f"{cell.place}.jsonl.gz"


def crash_path(folder: Path) -> Path:
    """The file beside a run's folder that tells how its process crashed."""
    return folder.with_name(folder.name + ".crash")


def _of_folder(cell: Cell) -> CellStanding:
    folder = cell.folder
    if not (folder / RECORDS).exists():
        return _half(cell)
    records = checked_records(folder)
    if not records or not (folder / CONFIG).exists():
        return _half(cell)
    check_trained(cell, records)
    _check_trace(cell)
    if ended(records) in ("done", "failed") and not crash_path(folder).exists():
        return CellStanding(State.DONE, records)
    if any(_has_content(folder / name) for name in (RESUME, CHECKPOINT)):
        return CellStanding(State.STOPPED)
    return _half(cell)


def _half(cell: Cell) -> CellStanding:
    """A run that was killed before its first snapshot begins anew, see :func:`clear`."""
    folder = cell.folder
    if (folder / CONFIG).exists():
        found = to_tree(with_choices(load_saved(folder / CONFIG)))  # it may not have begun
        _check_same(with_choices(cell.config), found, _kept_init(folder), folder)
    return CellStanding(State.NEW)


def clear(folder: Path) -> None:
    """Remove what a run writes into its folder, and nothing else. Raises BadInput."""
    try:
        for name in OURS:
            (folder / name).unlink(missing_ok=True)
        for name in OUR_FOLDERS:
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
    except OSError as error:
        raise BadInput(f"{folder} cannot be cleared: {error.strerror}; remove it") from None


def _has_content(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def checked_records(path: Path) -> list[dict[str, Any]]:
    """The records in a folder or file. Raises BadInput if they are damaged."""
    try:
        return read(path)
    except BadInput as error:
        raise BadInput(f"{error}; remove it, and the run is trained anew") from None


def ended(records: Records) -> str:
    """The status of the last ``end`` record, if nothing came after it; else empty."""
    last = records[-1] if records else {"kind": ""}
    return str(last["status"]) if last["kind"] == "end" else ""


# --- the same configuration ----------------------------------------------------------------------


def _config_of(path: Path, records: Records) -> Mapping[str, Any]:
    first: Mapping[str, Any] = records[0] if records else {"kind": ""}
    if first["kind"] != "config":
        raise BadInput(f"{path} does not begin with the run's configuration: remove it")
    return recorded_config(first["config"])


_LOGS = frozenset(field.name for field in fields(ReplayOptions))

_MEND = "give another --out, or remove it to train it anew"


def check_trained(cell: Cell, records: Records) -> None:
    """Raise BadInput, naming the key, unless the cell's run was trained as the cell says."""
    found = _config_of(cell.folder, records)
    _check_same(with_choices(cell.config), found, records[0].get("init", {}), cell.folder)


def _check_same(
    config: Config, found: Mapping[str, Any], init: Mapping[str, Any], where: Path
) -> None:
    """Raise BadInput, naming the key, unless ``found`` is ``config`` in all that a run's numbers
    depend on. ``init``: what the run tells of the state that it began with."""
    began, run = init.get("sha256"), config.init.run
    now = digest_of(run) if run is not None and began is not None else None
    if now is not None and now != began:
        raise BadInput(
            f"{where} was trained from another state than init.run={written(run)} is now: {_MEND}"
        )
    for key, wanted, was in differences(json.loads(json.dumps(to_tree(config))), found):
        alike = (key == INIT_RUN and now is not None) or (
            key == "model.sha256"  # of the same weights, as an earlier version had it
            and config.model.path is not None
            and has_weights(folder_of(config.model.path), str(was))
        )
        if not (alike or _is_free(key, config)):
            raise BadInput(
                f"{where} was trained with {key}={written(was)}, this comparison has "
                f"{key}={written(wanted)}: {_MEND}"
            )


def _kept_init(folder: Path) -> Mapping[str, Any]:
    """What stands beside the state that a run began with; nothing, if that is not whole."""
    try:
        return Store(DiskFiles(folder)).note(INIT, 0)
    except Damaged:
        return {}


def _is_free(key: str, config: Config) -> bool:
    """No number of the run depends on it."""
    if key.startswith("fleet."):
        return config.failures.scenario != "clock" or key == "fleet.price"
    if key == "recovery.shadow_ahead" and config.recovery.shadow_format != SIGNS:
        return True
    option = key.removeprefix("recovery.")
    if key.startswith(("recovery.shadow_", "recovery.fit_")) or (option != key and option in _LOGS):
        spec = STRATEGIES.get(config.recovery.name)
        return spec is None or option not in spec.options
    return key in ("out", *WHERE)


def differences(
    one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """(key, value in one, value in other) of nested mappings where they differ."""
    for key in (*one, *(key for key in other if key not in one)):
        first, second = one.get(key), other.get(key)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            yield from differences(first, second, f"{prefix}{key}.")
        elif first != second:
            yield f"{prefix}{key}", first, second


def _check_trace(cell: Cell) -> None:
    """A trace file may have been edited since."""
    path = cell.folder / TRACE
    if not is_trace_file(cell.config.failures.scenario) or not path.exists():
        return
    if path.read_text(encoding="utf-8") != render_trace(DueFailures(cell.config).trace):
        raise BadInput(
            f"{cell.folder} was trained with other failures than {cell.config.failures.scenario} "
            "has now: give another --out, or remove it to train it anew"
        )

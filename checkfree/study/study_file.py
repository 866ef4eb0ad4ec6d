"""``study.json``: what a comparison was asked for, so that a report of it can be made again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from checkfree.core.errors import BadInput, cannot_write
from checkfree.runtime.folder import write_json

STUDY = "study.json"


@dataclass(frozen=True)
class Column:
    """A strategy at a rate."""

    label: str
    rate: float | None
    """In percent per stage and hour; None: the configuration's own failures, or none."""


@dataclass(frozen=True)
class StudyFile:
    """What ``study.json`` says."""

    title: str
    command: str
    columns: tuple[Column, ...]
    """In the order in which they are shown."""
    seeds: int
    target: float | None
    notes: tuple[str, ...]
    results: str | None
    """Folder of compact records that a run may stand in instead."""
    config: Mapping[str, Any]
    """What all runs derive from."""


def write_study(study: StudyFile, folder: Path) -> None:
    """Whole or not at all. Raises RunFailed if the folder can't be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    write_json(folder / STUDY, asdict(study))


def read_study(folder: Path) -> StudyFile:
    """The study of a folder. Raises BadInput if there is none that can be read."""
    path = folder / STUDY
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        columns = tuple(Column(str(c["label"]), c["rate"]) for c in tree["columns"])
        notes = tuple(map(str, tree["notes"]))
        return StudyFile(**{**tree, "columns": columns, "notes": notes})
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError):
        raise BadInput(f"{path} is damaged: run its comparison again, which writes it") from None

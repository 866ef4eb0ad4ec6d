"""From folders to a study: comparisons, folders of compact results, single runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from checkfree.config.places import INIT_RUN, WHERE
from checkfree.core.errors import BadInput
from checkfree.core.participants import unequal
from checkfree.core.records import RECORDS
from checkfree.report.study.model import REFERENCE, Entry, Study
from checkfree.session.job import recorded_config
from checkfree.study.folders import Records, checked_records, crash_path, differences, ended
from checkfree.study.plan import RUNS, SHARED, place
from checkfree.study.pricing import Prices
from checkfree.study.single import single_entries
from checkfree.study.study_file import STUDY, StudyFile, read_study

_WANTED = "give the folder of a comparison, its results, or a run"

_APART = ("out", "devices", "seed")


@dataclass(frozen=True)
class Gathered:
    """What stands in a folder."""

    title: str
    entries: tuple[Entry, ...]
    command: str = ""
    target: float | None = None
    notes: tuple[str, ...] = ()


def gather(folders: Sequence[Path]) -> Study:
    """All finished runs in ``folders``, unpriced. Raises BadInput if a folder holds nothing that a
    report could be made of."""
    for folder in folders:
        if not os.access(folder, os.R_OK | os.X_OK):
            what = "cannot be read" if folder.exists() else "does not exist"
            raise BadInput(f"{folder} {what}: {_WANTED}")
    single = [folder for folder in folders if (folder / RECORDS).is_file()]
    parts = [_comparison(folder) for folder in folders if folder not in single]
    if single:
        loose = [(str(folder), checked_records(folder)) for folder in single]
        parts.append(Gathered("Runs", tuple(single_entries(loose))))
    entries, notes = _merged(parts), [note for part in parts for note in part.notes]
    if not entries:
        raise BadInput(f"no run in {', '.join(map(str, folders))} is finished: nothing to report")
    targets = [part.target for part in parts if part.target is not None]
    return Study(
        title="; ".join(dict.fromkeys(part.title for part in parts)),
        entries=entries,
        command="; ".join(filter(None, (part.command for part in parts))),
        target=targets[0] if targets else None,
        notes=tuple(dict.fromkeys([*notes, *_unequal(entries)])),
    )


def _comparison(folder: Path) -> Gathered:
    if not (folder / STUDY).is_file():
        what = f"holds neither {STUDY} nor {RECORDS}" if folder.is_dir() else "is no folder"
        raise BadInput(f"{folder} {what}: {_WANTED}")
    study = read_study(folder)
    entries: list[Entry] = []
    missing: dict[str, list[str]] = {}
    for label, rate, number in _cells(study):
        found = _records(folder, study, place(label, rate, number))
        if found is None:
            column = label if rate is None else f"{label} at {rate:g} %/h"
            missing.setdefault(column, []).append(str(number))
        else:
            entries.append(_entry(label, rate, *found))
    notes = study.notes
    if missing:
        told = (f"{column}, seed {', '.join(numbers)}" for column, numbers in missing.items())
        notes = (*notes, f"not finished, so left out: {'; '.join(told)}")
    return Gathered(study.title, tuple(entries), study.command, study.target, notes)


def _cells(study: StudyFile) -> Iterator[tuple[str, float | None, int]]:
    for column in study.columns:
        for number in range(study.seeds):
            yield column.label, column.rate, number


def _records(folder: Path, study: StudyFile, where: str) -> tuple[str, Records] | None:
    """Of a finished run: where they were found, and they."""
    run = folder / RUNS / where
    if (run / RECORDS).is_file() and not crash_path(run).exists():
        records = checked_records(run)
        if ended(records) in ("done", "failed"):
            return str(run), records
    for results in (folder, *([Path(study.results)] if study.results else [])):
        path = results / f"{where}.jsonl.gz"
        if path.is_file():
            return str(path), checked_records(path)
    return None


def _entry(label: str, rate: float | None, folder: str, records: Records) -> Entry:
    first = records[0]
    return Entry(
        label=label,
        rate=rate,
        seed=int(first["config"]["seed"]),
        folder=folder,
        records=records,
        reused=str(first.get("reused", "")),
    )


def _merged(parts: Sequence[Gathered]) -> tuple[Entry, ...]:
    """Each run once; those of one name and different configurations are told apart by folder."""
    found: dict[tuple[str, float | None, int], Entry] = {}
    for entry in (entry for part in parts for entry in part.entries):
        key = (entry.label, entry.rate, entry.seed)
        if key in found and _is_same(found[key], entry):
            continue
        if key in found:
            entry = replace(entry, label=f"{entry.label} [{entry.folder}]")
            key = (entry.label, entry.rate, entry.seed)
        found[key] = entry
    return tuple(found.values())


def _is_same(one: Entry, other: Entry) -> bool:
    first, second = one.records[0], other.records[0]
    configs = recorded_config(first["config"]), recorded_config(second["config"])
    alike = all(
        key in (*_APART, *WHERE, INIT_RUN) or key.startswith("fleet.")
        for key, _, _ in differences(*configs)
    )
    return alike and _content(first) == _content(second)


def _unequal(entries: Sequence[Entry]) -> list[str]:
    """What the runs don't have in common though a comparison should."""
    first = _shared(entries[0])
    keys = {key for entry in entries for key, _, _ in differences(first, _shared(entry))}
    notes = []
    if keys:
        notes.append(f"not all runs have the same {', '.join(sorted(keys))}: they compare little")
    if apart := unequal(entry.records for entry in entries):
        notes.append(f"not all was trained with the same {', '.join(apart)}: bits may differ")
    if all(entry.label != REFERENCE for entry in entries):
        notes.append(f"there is no {REFERENCE} among the runs, so gaps to it are not told")
    return notes


def _shared(entry: Entry) -> Mapping[str, Any]:
    record = entry.records[0]
    began = recorded_config(record["config"])
    config = {k: v for k, v in began.items() if k in SHARED and k not in _APART}
    data = {key: config["data"][key] for key in config["data"] if f"data.{key}" not in WHERE}
    content, init = _content(record)
    return {**config, "data": {**data, "content": content}, "init": init}


def _content(record: Mapping[str, Any]) -> tuple[object, object]:
    """By its hashes, what a run read and what it began with."""
    return record["data"], record.get("init", {}).get("sha256")


def priced(study: Study, prices: Prices) -> Study:
    """The study with what each run took; a note names those that cannot be priced."""
    entries, notes = [], list(study.notes)
    for entry in study.entries:
        try:
            entries.append(replace(entry, priced=prices.of(entry.records)))
        except BadInput as error:
            entries.append(entry)
            notes.append(f"{entry.label}, seed {entry.seed} is not priced: {error}")
    return replace(study, entries=tuple(entries), notes=tuple(notes))

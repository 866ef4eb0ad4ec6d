"""From folders to a study: comparisons, compact results, single runs; and what runs took."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from checkfree.cli.report import study_table
from checkfree.core.config import Config, FleetConfig
from checkfree.core.cost import Priced
from checkfree.core.errors import BadInput
from checkfree.report.study.groups import book
from checkfree.report.study.model import Study
from checkfree.report.study.summary import summarize
from checkfree.study.compact import write_compact
from checkfree.study.folders import crash_path
from checkfree.study.gather import gather, priced
from checkfree.study.plan import Cell
from checkfree.study.pricing import FORMAT, Prices, parse
from checkfree.study.reporting import report
from checkfree.study.single import name, rate
from checkfree.study.study_file import Column, StudyFile, read_study, write_study
from tests.unit.comparisons import cells_of, loss_at, records_of, write_run


def study_of(cells: dict[str, Cell], **more: Any) -> StudyFile:
    columns = dict.fromkeys(Column(cell.label, cell.rate) for cell in cells.values())
    seeds = 1 + max(cell.number for cell in cells.values())
    made = {"title": "T", "command": "checkfree compare x", "target": None, "notes": ()}
    return StudyFile(
        **{"results": None, "config": {}, **made, **more}, columns=tuple(columns), seeds=seeds
    )


@pytest.fixture
def cells(tmp_path: Path) -> dict[str, Cell]:
    """A comparison of two seeds, all done."""
    found = cells_of(tmp_path, ["checkfree"], seeds=2, rates=[5])
    write_study(study_of(found, notes=("a note",), target=3.5), tmp_path)
    for cell in found.values():
        write_run(cell, records_of(cell))
    return found


# --- comparisons ---------------------------------------------------------------------------------


def test_study_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, ["checkfree"], rates=[5, 10], seeds=2)
    study = study_of(cells, title="Ä", notes=("x",), results="kept", config={"seed": 1})
    write_study(study, tmp_path)
    assert read_study(tmp_path) == study
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(BadInput, match="damaged"):
        read_study(tmp_path)


def test_a_comparison(tmp_path: Path, cells: dict[str, Cell]) -> None:
    study = gather([tmp_path])
    assert [(e.label, e.rate, e.seed) for e in study.entries] == [
        ("no_failure", None, 0),
        ("no_failure", None, 1),
        ("checkfree", 5.0, 0),
        ("checkfree", 5.0, 1),
    ]
    assert (study.title, study.command, study.target) == ("T", "checkfree compare x", 3.5)
    assert study.notes == ("a note",)
    assert study.entries[3].folder == str(cells["checkfree/rate-5/seed-1"].folder)


def test_what_is_not_finished_is_left_out_and_said(tmp_path: Path, cells: dict[str, Cell]) -> None:
    stopped, crashed = cells["checkfree/rate-5/seed-1"], cells["checkfree/rate-5/seed-0"]
    write_run(stopped, records_of(stopped)[:-1])
    crash_path(crashed.folder).write_text("boom\n")
    study = gather([tmp_path])
    assert [e.label for e in study.entries] == ["no_failure"] * 2
    assert "not finished, so left out: checkfree at 5 %/h, seed 0, 1" in study.notes


def test_compact_results_stand_in(tmp_path: Path, cells: dict[str, Cell]) -> None:
    results, other = tmp_path / "kept", tmp_path / "other"
    for cell in cells.values():
        write_compact(records_of(cell), results, cell)
    write_study(study_of(cells), results)
    write_study(study_of(cells, results=str(results)), other)
    for folder in (results, other):
        study = gather([folder])
        assert len(study.entries) == 4
        assert study.entries[0].folder == str(results / "no_failure/seed-0.jsonl.gz")
    assert len(gather([tmp_path, results]).entries) == 4


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder, lr in ((tmp_path / "a", "0.1"), (tmp_path / "b", "0.2")):
        cells = cells_of(
            folder, ["checkfree"], [f"optimizer.lr={lr}", f"model.width={int(lr[-1]) * 8}"]
        )
        write_study(study_of(cells), folder)
        for cell in cells.values():
            write_run(cell, records_of(cell))
    study = gather([tmp_path / "a", tmp_path / "b"])
    second = tmp_path / "b/runs/checkfree/seed-0"
    assert [entry.label for entry in study.entries][1::2] == ["checkfree", f"checkfree [{second}]"]
    assert "not all runs have the same model.width: they compare little" in study.notes


def test_runs_of_different_processors_are_said_to_be(tmp_path: Path) -> None:
    """Also one that was begun on one and gone on with on another."""
    cells = cells_of(tmp_path, ["checkfree"])
    write_study(study_of(cells), tmp_path)
    first, *others = cells.values()
    for cell in others:
        write_run(cell, records_of(cell))
    config, *rest = records_of(first)
    went_on = {"kind": "process", "iteration": 3, "equipment": {"torch": "3", "cpu": "AVX2"}}
    write_run(first, [config, *rest[:-1], went_on, rest[-1]])
    note = "not all was trained with the same torch: bits may differ"
    assert note in gather([tmp_path]).notes
    write_run(first, records_of(first))
    assert note not in gather([tmp_path]).notes


@pytest.mark.parametrize(
    ("folder", "what"),
    [("missing", "does not exist"), (".", "holds neither study.json nor records.jsonl")],
)
def test_folders_of_nothing(tmp_path: Path, folder: str, what: str) -> None:
    with pytest.raises(BadInput, match=what):
        gather([tmp_path / folder])


def test_nothing_is_finished(tmp_path: Path) -> None:
    write_study(study_of(cells_of(tmp_path, ["checkfree"])), tmp_path)
    with pytest.raises(BadInput, match="nothing to report"):
        gather([tmp_path])


# --- single runs ---------------------------------------------------------------------------------


def test_single_runs_are_named_by_what_they_differ_in(tmp_path: Path) -> None:
    made = {
        "a": ["recovery=none", "failures=none"],
        "b": ["recovery=checkpoint(interval=25)", "failures.probability=0.1"],
        "c": ["recovery=checkfree", "failures.probability=0.1", "failures.stages=edges"],
        "d": ["recovery=checkfree", "failures=none"],
        "e": ["recovery=redundant", "failures=clock", "failures.rate_per_hour=0.1", "seed=3"],
    }
    for place, words in made.items():
        cell = cells_of(tmp_path / place, ["checkfree"], words)["checkfree/seed-0"]
        record, *rest = records_of(cell)
        kind = words[0].partition("=")[2].partition("(")[0]
        record["config"]["recovery"]["name"] = kind
        if "interval" in words[0]:
            record["config"]["recovery"]["interval"] = 25
        write_run(cell, [record, *rest])
    folders = [tmp_path / place / "runs/checkfree/seed-0" for place in made]
    study = gather(folders)
    assert [(e.label, e.rate, e.seed) for e in study.entries] == [
        ("no_failure", None, 0),
        ("checkpoint(interval=25, failures.stages=body)", None, 0),
        ("checkfree(failures.stages=edges)", None, 0),
        ("checkfree(failures=none)", None, 0),
        ("redundant(failures.stages=body)", 10.0, 3),
    ]


def test_keys_that_an_older_version_had_not_are_no_difference(tmp_path: Path) -> None:
    """Of single runs, nor of two of one name: what is left out means its default."""
    for place, seed in (("old", 0), ("new", 1), ("again", 0)):
        cell = cells_of(tmp_path / place, ["checkfree"], [f"seed={seed}"])["checkfree/seed-0"]
        record, *rest = records_of(cell)
        if place == "old":
            for key in ("most_rollback", "copies", "wave_budget", "log_memory"):
                del record["config"]["recovery"][key]
        write_run(cell, [record, *rest])
    folders = [tmp_path / place / "runs/checkfree/seed-0" for place in ("old", "new", "again")]
    names = [(entry.label, entry.seed) for entry in gather(folders).entries]
    assert names == [("checkfree", 0), ("checkfree", 1)]


def test_names_of_one_run() -> None:
    config = {"recovery.name": "checkfree", "failures.scenario": "random", "seed": 1}
    assert name(config, []) == "checkfree"
    assert rate(config) is None
    assert rate({"failures.scenario": "clock", "failures.rate_per_hour": 0.07}) == 7.0


# --- prices --------------------------------------------------------------------------------------


class FakePricer:
    """Two seconds an iteration, times the detection time if a fleet gives one."""

    def __init__(self) -> None:
        self.calls: list[FleetConfig] = []

    def __call__(
        self, config: Config, records: Sequence[Mapping[str, Any]], fleet: FleetConfig
    ) -> Priced:
        self.calls.append(fleet)
        if config.seed == 1 and config.recovery.name == "checkfree":
            raise BadInput("they go another way")
        steps = [r["iteration"] for r in records if r["kind"] == "iteration"]
        ends = tuple(2.0 * (step + 1) for step in steps)
        return Priced(fleet.name, tuple(steps), ends, {"useful": ends[-1]}, {}, {}, (1.5,))


def prices(folder: Path, pricer: FakePricer, **fleet: Any) -> Prices:
    return Prices(pricer, folder / "priced", fleet)


def test_each_run_is_priced_once(tmp_path: Path, cells: dict[str, Cell]) -> None:
    pricer = FakePricer()
    study = gather([tmp_path])
    first = priced(study, prices(tmp_path, pricer))
    assert len(pricer.calls) == 4
    again = priced(study, prices(tmp_path, pricer))
    assert len(pricer.calls) == 5  # the one that can't be priced is tried again
    assert again == first
    assert first.entries[0].priced == FakePricer()(
        cells["no_failure/seed-0"].config, study.entries[0].records, FleetConfig()
    )
    assert first.entries[3].priced is None
    assert "checkfree, seed 1 is not priced: they go another way" in first.notes


def test_compact_records_cost_the_same(tmp_path: Path, cells: dict[str, Cell]) -> None:
    pricer, results = FakePricer(), tmp_path / "kept"
    for cell in cells.values():
        write_compact(records_of(cell), results, cell)
    write_study(study_of(cells), results)
    priced(gather([tmp_path]), prices(tmp_path, pricer))
    priced(gather([results]), prices(tmp_path, pricer))
    assert len(pricer.calls) == 5


def test_another_fleet_is_another_price(tmp_path: Path, cells: dict[str, Cell]) -> None:
    pricer, study = FakePricer(), gather([tmp_path])
    priced(study, prices(tmp_path, pricer))
    priced(study, prices(tmp_path, pricer, name="home"))
    assert len(pricer.calls) == 8
    assert {fleet.name for fleet in pricer.calls} == {"paper", "home"}
    priced(study, prices(tmp_path, pricer, price=1.5))
    assert pricer.calls[-1] == FleetConfig(price=1.5)


def test_a_damaged_memory_is_made_again(tmp_path: Path, cells: dict[str, Cell]) -> None:
    pricer, study = FakePricer(), gather([tmp_path])
    first = priced(study, prices(tmp_path, pricer))
    for path in (tmp_path / "priced").iterdir():
        path.write_text("{")
    assert priced(study, prices(tmp_path, pricer)) == first
    (path, *_) = (tmp_path / "priced").iterdir()
    assert parse(json.loads(path.read_text())).recoveries == (1.5,)


def test_prices_of_before_called_rollbacks_replays() -> None:
    now = Priced("home", (0,), (2.0,), {"useful": 2.0, "rollback": 1.0}, {"rollback": 8}, {})
    before = {**asdict(now), "seconds": {"useful": 2.0, "replay": 1.0}, "bytes": {"replay": 8}}
    assert parse(json.loads(json.dumps(before))) == now
    of_now = replace(now, seconds={"useful": 2.0, "rollback": 1.0, "replay": 0.5})
    assert parse(json.loads(json.dumps({"format": FORMAT, **asdict(of_now)}))) == of_now
    with pytest.raises(ValueError, match="format 3"):
        parse({"format": FORMAT + 1, **asdict(now)})


# --- the report ----------------------------------------------------------------------------------


def test_report_and_table(tmp_path: Path, cells: dict[str, Cell]) -> None:
    ended = cells["checkfree/rate-5/seed-1"]
    write_run(ended, records_of(ended, 3, "failed", "stage 2 is lost"))
    page, study = report([tmp_path], tmp_path / "new", target=4.25, pricer=FakePricer())
    assert page == tmp_path / "new/report.html"
    assert page.is_file()
    assert study.target == 4.25
    rows = {row.group.label: row for row in summarize(book(study)).rows}
    assert rows["checkfree"].last_validation is None
    found = rows["no_failure"].last_validation
    assert found is not None and found.mean == pytest.approx(loss_at(6) + 0.1 + 0.5)
    columns = [list(column.cells) for column in study_table(study).columns]
    assert columns[0] == ["no_failure", "checkfree"]
    assert columns[1] == ["none", "5 %/h"]
    assert columns[2] == ["2", "2"]
    assert columns[6] == ["", "at 3"]


def test_wrong_words_for_a_fleet(tmp_path: Path, cells: dict[str, Cell]) -> None:
    with pytest.raises(BadInput, match=r"fleet\.prize.*fleet\.price"):
        report([tmp_path], tmp_path, fleet={"prize": 1})
    assert isinstance(gather([tmp_path]), Study)

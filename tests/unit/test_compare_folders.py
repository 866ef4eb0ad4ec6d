"""How far a cell's run is: told from whatever a kill left in its folder."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from checkfree.config.load import to_yaml
from checkfree.core.errors import BadInput
from checkfree.core.records import RECORDS, read
from checkfree.failures import Failure, write_trace
from checkfree.messages.control import RESUME
from checkfree.models import hub
from checkfree.models.config import ModelConfig
from checkfree.runtime.folder import CONFIG
from checkfree.study.check import check_data, trace_notes
from checkfree.study.compact import pack, write_compact
from checkfree.study.folders import State, clear, compact_path, crash_path, standing
from checkfree.study.plan import Cell
from tests.unit.comparisons import cells_of, loss_at, records_of, write_run

REASON = "iteration 3: stage 2 is lost"


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return cells_of(tmp_path, ["checkfree"])["checkfree/seed-0"]


def snapshot(cell: Cell) -> None:
    (cell.folder / RESUME / "00000002").mkdir(parents=True)


# --- states --------------------------------------------------------------------------------------


def test_nothing_there(cell: Cell) -> None:
    assert standing(cell, None).state is State.NEW
    assert not cell.folder.exists()


@pytest.mark.parametrize(("status", "reason"), [("done", ""), ("failed", REASON)])
def test_done_is_what_came_to_an_end(cell: Cell, status: str, reason: str) -> None:
    records = records_of(cell, 3, status, reason)
    write_run(cell, records)
    found = standing(cell, None)
    assert found.state is State.DONE
    assert list(found.records) == records


@pytest.mark.parametrize("lines", [1, 4], ids=["begun", "halfway"])
def test_killed_after_a_snapshot(cell: Cell, lines: int) -> None:
    write_run(cell, records_of(cell)[:lines])
    snapshot(cell)
    assert standing(cell, None).state is State.STOPPED
    assert (cell.folder / RECORDS).exists()


def test_interrupted(cell: Cell) -> None:
    write_run(cell, records_of(cell, 3, "interrupted"))
    snapshot(cell)
    assert standing(cell, None).state is State.STOPPED


def test_killed_before_a_snapshot_begins_anew(cell: Cell) -> None:
    write_run(cell, records_of(cell)[:4])
    (cell.folder / "mine.txt").write_text("not checkfree's")
    assert standing(cell, None).state is State.NEW
    clear(cell.folder)
    assert [path.name for path in cell.folder.iterdir()] == ["mine.txt"]


def test_killed_before_the_first_record_begins_anew(cell: Cell) -> None:
    cell.folder.mkdir(parents=True)
    (cell.folder / CONFIG).write_text(to_yaml(cell.config))
    assert standing(cell, None).state is State.NEW
    clear(cell.folder)
    assert list(cell.folder.iterdir()) == []


def test_a_crash_is_no_result(cell: Cell) -> None:
    """The trainer writes an end when something breaks, too."""
    write_run(cell, records_of(cell, 3, "failed", "boom"))
    snapshot(cell)
    crash_path(cell.folder).write_text("boom\n")
    assert standing(cell, None).state is State.STOPPED


# --- another configuration -----------------------------------------------------------------------


def test_of_another_configuration(tmp_path: Path, cell: Cell) -> None:
    write_run(cell, records_of(cell))
    other = cells_of(tmp_path, ["checkfree"], ["optimizer.lr=0.5"])["checkfree/seed-0"]
    with pytest.raises(BadInput) as error:
        standing(other, None)
    for part in (str(cell.folder), "optimizer.lr=0.002", "optimizer.lr=0.5", "--out", "remove"):
        assert part in str(error.value)


def test_what_changes_no_number_may_differ(tmp_path: Path, cell: Cell) -> None:
    write_run(cell, records_of(cell))
    words = ["fleet.name=home", "fleet.price=2", "devices=cuda"]
    other = cells_of(tmp_path, ["checkfree"], words)["checkfree/seed-0"]
    assert standing(other, None).state is State.DONE


def test_on_the_clock_the_fleet_decides_what_fails(tmp_path: Path) -> None:
    place = "checkfree/rate-5/seed-0"
    cell = cells_of(tmp_path, ["checkfree"], rates=[5])[place]
    write_run(cell, records_of(cell))
    dear = cells_of(tmp_path, ["checkfree"], ["fleet.price=2"], rates=[5])[place]
    assert standing(dear, None).state is State.DONE
    home = cells_of(tmp_path, ["checkfree"], ["fleet.name=home"], rates=[5])[place]
    with pytest.raises(BadInput, match=r"fleet\.name=paper.*fleet\.name=home"):
        standing(home, None)


def test_keys_that_older_versions_lack_mean_their_defaults(cell: Cell) -> None:
    first, *rest = records_of(cell)
    del first["config"]["fleet"], first["config"]["recovery"]["partner"]
    write_run(cell, [first, *rest])
    assert standing(cell, None).state is State.DONE


def test_a_fingerprint_as_an_older_version_took_it(tmp_path: Path, cell: Cell) -> None:
    told = {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 2, "vocab_size": 9}
    (tmp_path / "config.json").write_text(json.dumps(told))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    model = hub.described(ModelConfig("hf", path=str(tmp_path), context=4))
    for sha256, same in ((hub.former_fingerprint(tmp_path), True), ("0" * 64, False)):
        now = replace(cell, config=replace(cell.config, model=model))
        then = replace(now, config=replace(now.config, model=replace(model, sha256=sha256)))
        write_run(then, records_of(then))
        if same:
            assert standing(now, None).state is State.DONE
        else:
            with pytest.raises(BadInput, match=r"trained with model\.sha256"):
                standing(now, None)


def test_a_trace_file_that_was_edited_since(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    write_trace((Failure(2, 1),), trace)
    cell = cells_of(tmp_path, ["checkfree"], [f"failures={trace}"])["checkfree/seed-0"]
    write_run(cell, records_of(cell))
    write_trace((Failure(2, 1),), cell.folder / "trace.json")
    assert standing(cell, None).state is State.DONE
    write_trace((Failure(3, 1),), trace)
    with pytest.raises(BadInput, match=r"other failures than .*trace"):
        standing(cell, None)


def test_a_trace_of_another_length_is_explained(tmp_path: Path) -> None:
    def notes(*ticks: int) -> list[str]:
        trace = tmp_path / "trace.json"
        write_trace(tuple(Failure(tick, 1) for tick in ticks), trace)
        cells = cells_of(tmp_path, ["checkfree"], [f"failures={trace}"])
        assert trace_notes(cells["no_failure/seed-0"].config) == []
        return trace_notes(cells["checkfree/seed-0"].config)

    assert notes(1, 4) == []
    (long,) = notes(4, 6, 9)
    assert "2 of 3 failures come after tick 5" in long
    (short,) = notes(0, 1)
    assert "ends at tick 1" in short and "4 iterations" in short
    (empty,) = notes()
    assert "no failures" in empty


# --- damage --------------------------------------------------------------------------------------


def test_damaged_records_are_named(cell: Cell) -> None:
    folder = write_run(cell, records_of(cell))
    lines = (folder / RECORDS).read_text().splitlines()
    (folder / RECORDS).write_text("\n".join([lines[0], lines[1][:20], *lines[2:], ""]))
    with pytest.raises(BadInput, match=r"records.jsonl:2 is no record.*remove it"):
        standing(cell, None)


def test_other_data_cannot_be_compared(cell: Cell) -> None:
    records = records_of(cell)
    other = [{**records[0], "data": {"hash": "b"}}]
    check_data({"one": records, "two": records}, {"hash": "a"})
    with pytest.raises(BadInput, match="two saw other data than one"):
        check_data({"one": records, "two": other}, None)
    with pytest.raises(BadInput, match=r"one saw other data .* than is here"):
        check_data({"one": records}, {"hash": "b"})


# --- compact records -----------------------------------------------------------------------------


def test_a_compact_record_counts_as_done(tmp_path: Path, cell: Cell) -> None:
    results = tmp_path / "results"
    write_compact(records_of(cell), results, cell)
    found = standing(cell, results)
    assert found.state is State.DONE
    assert [r["loss"] for r in found.records if r["kind"] == "iteration"] == [
        loss_at(i) for i in range(6)
    ]
    other = cells_of(tmp_path, ["checkfree"], ["optimizer.lr=0.5"])["checkfree/seed-0"]
    with pytest.raises(BadInput, match=r"seed-0\.jsonl\.gz was trained with optimizer\.lr"):
        standing(other, results)


@pytest.mark.parametrize(
    ("strategy", "word", "reads"),
    [
        ("checkfree", "recovery.shadow_format=int8", False),
        ("fit", "recovery.shadow_every=50", False),
        ("shadow", "recovery.fit_steps=3", False),
        ("shadow", "recovery.shadow_every=50", True),
        ("auto", "recovery.shadow_format=int8", True),
        ("auto", "recovery.shadow_ahead=0", True),
        ("auto(shadow_format=int4)", "recovery.shadow_ahead=0", False),
        ("auto", "recovery.fit_steps=3", True),
    ],
)
def test_what_a_strategy_does_not_read_may_differ(
    tmp_path: Path, strategy: str, word: str, reads: bool
) -> None:
    """So a default that changes spoils no run of a strategy that it is not for."""
    one, other = (
        list(cells_of(tmp_path, [strategy], words).values())[-1] for words in ([], [word])
    )
    results = tmp_path / "results"
    write_compact(records_of(one), results, one)
    if reads:
        with pytest.raises(BadInput, match=f"was trained with {word.partition('=')[0]}"):
            standing(other, results)
    else:
        assert standing(other, results).state is State.DONE


def test_compact_records_are_the_same_bytes_and_no_more_than_reports_read(cell: Cell) -> None:
    records = records_of(cell)
    packed = pack(records, "here")
    assert packed == pack(json.loads(json.dumps(records)), "here")
    lines = [json.loads(line) for line in gzip.decompress(packed).splitlines()]
    assert [line["kind"] for line in lines] == [record["kind"] for record in records]
    assert lines[0] == {**records[0], "config": {**records[0]["config"], "out": "here"}}
    assert lines[2] == {
        "kind": "iteration",
        "iteration": 0,
        "tick": 0,
        "loss": loss_at(0),
        "tokens": 64,
        "seconds": 0.123,
    }


def test_a_thousand_iterations_are_small(cell: Cell) -> None:
    assert len(pack(records_of(cell, 1000), "here")) < 20_000


def test_compact_records_are_written_once(tmp_path: Path, cell: Cell) -> None:
    path = compact_path(tmp_path, cell)
    write_compact(records_of(cell), tmp_path, cell)
    before = path.stat().st_ino
    write_compact(read(path), tmp_path, cell)
    assert path.stat().st_ino == before
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(BadInput, match="cut short"):
        standing(cell, tmp_path)
    write_compact(records_of(cell), tmp_path, cell)
    assert standing(cell, tmp_path).state is State.DONE

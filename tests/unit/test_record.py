"""Records: one JSON object a line, all digits, and what a reader makes of a torn file."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkfree.core.errors import BadInput
from checkfree.core.ops import Address, Recipe, Source
from checkfree.core.records import (
    RECORDS,
    AverageRecord,
    ConfigRecord,
    EndRecord,
    FailureRecord,
    IterationRecord,
    LedgerRecord,
    PlanRecord,
    ProcessRecord,
    RebuiltSeat,
    Record,
    RecoveryRecord,
    ReplayRecord,
    ResumeRecord,
    ValidationRecord,
    dumps,
    of_kind,
    read,
    recoveries,
)
from checkfree.messages.recorded import read_rebuilt
from tests.unit.wires import built

STEP = IterationRecord(
    iteration=3,
    tick=5,
    epoch=1,
    loss=0.1 + 0.2,
    gradient_norms={"0": 1 / 3, "1": 1e-300},
    clip={"0": 1.0, "1": 0.5},
    forwards=12,
    redundant_forwards=0,
    alive=3,
)
SOURCES = (Source(Address(1), 1, 3), Source(Address(3), 3, 3))
MADE = {"2.0": RebuiltSeat(Recipe("average", SOURCES), (0.25, 0.75), 10)}
TOLD = {
    "rule": "average",
    "sources": [
        {"holder": "1.0", "stage": 1, "version": 3},
        {"holder": "3.0", "stage": 3, "version": 3},
    ],
    "moments": True,
    "weights": [0.25, 0.75],
    "bytes": 10,
}
EVERY: tuple[Record, ...] = (
    ConfigRecord({"seed": 0, "devices": ["cpu"]}, {"torch": "2"}, {"name": "stdlib"}, 99),
    PlanRecord(0, 0, 0, {"0.0": 0, "1.0": 2}, hosts={"0.0": "a"}, zones={"0.0": "west"}),
    STEP,
    ValidationRecord(3, 5, 2.5, after_repair=True),
    FailureRecord(3, 5, 1, ("2.0",), (2,)),
    RecoveryRecord(3, 5, 1, 3, MADE, 10, 0, 2.5, 2.75),
    ReplayRecord(3, 5, "2.0", 1, 1, 10, True, {"seat": 0.5, "copy": 0.25}),
    ResumeRecord(3, 5),
    ProcessRecord(3, {"cpu": "AVX2"}, "2.0", 1, (("cpu", "AVX512", "AVX2"),)),
    LedgerRecord({"forward": 12}, {"Begin": 3}, {"Begin": 0}, {"iteration": 0.5}),
    AverageRecord((1, 2, 3), 2.5),
    EndRecord("done", 3, 5),
)


@pytest.mark.parametrize("record", EVERY, ids=lambda record: record.kind)
def test_every_record_is_one_line_with_all_its_fields(record: Record) -> None:
    line = dumps(record)
    assert "\n" not in line
    found = json.loads(line)
    assert found.pop("kind") == record.kind
    plain = {**vars(record), **({"rebuilds": {"2.0": TOLD}} if "resume_at" in found else {})}
    sparse = {f.name for f in dataclasses.fields(record) if f.metadata.get("sparse")}
    kept = {name: value for name, value in plain.items() if value or name not in sparse}
    assert found == json.loads(json.dumps(kept))


def test_what_a_run_begins_with_is_told_where_there_is_something() -> None:
    began = ConfigRecord({}, {}, {}, 1, {"run": "a"})
    assert json.loads(dumps(began))["init"] == {"run": "a"}
    assert "init" not in dumps(ConfigRecord({}, {}, {}, 1))


def test_every_kind_has_a_name_of_its_own() -> None:
    kinds = [record.kind for record in EVERY]
    assert len(set(kinds)) == len(kinds) == len(Record.__subclasses__())


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_keep_all_their_digits(loss: float) -> None:
    again = json.loads(dumps(ValidationRecord(0, 0, loss)))["loss"]
    assert again == loss and math.copysign(1, again) == math.copysign(1, loss)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_a_number_becomes_null(value: float) -> None:
    assert json.loads(dumps(ValidationRecord(0, 0, value)))["loss"] is None
    nested = PlanRecord(0, 0, 0, {}, {"1.0": RebuiltSeat(Recipe("average"), check={"a": value})})
    found = json.loads(dumps(nested))["rebuilds"]["1.0"]
    assert found["check"] == {"a": None}
    assert math.isnan(read_rebuilt(found).check["a"])


def _is_finite(made: RebuiltSeat) -> bool:
    return all(map(math.isfinite, (*made.weights, made.recipe.bound or 0.0)))


@given(built(RebuiltSeat).filter(_is_finite))
def test_a_rebuilt_seat_comes_back(made: RebuiltSeat) -> None:
    """With every field of its recipe, and whatever field a recipe will have."""
    line = dumps(PlanRecord(0, 0, 0, {}, {"1.0": made}))
    again = read_rebuilt(json.loads(line)["rebuilds"]["1.0"])
    assert dumps(PlanRecord(0, 0, 0, {}, {"1.0": again})) == line
    assert all(
        getattr(again.recipe, name) == value or value != value
        for name, value in vars(made.recipe).items()
    )


@pytest.mark.parametrize(
    "change",
    [{"moments": 1}, {"sources": [{"holder": "1", "stage": 1, "version": 3}]}, {"new": 1}],
)
def test_what_no_record_holds_is_no_rebuilt_seat(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        read_rebuilt({**TOLD, **change})


def written(tmp_path: Path, text: str | bytes) -> Path:
    data = text.encode() if isinstance(text, str) else text
    (tmp_path / RECORDS).write_bytes(data)
    return tmp_path


def test_a_folder_or_its_file_can_be_read(tmp_path: Path) -> None:
    folder = written(tmp_path, "".join(dumps(record) + "\n" for record in EVERY))
    found = read(folder)
    assert [record["kind"] for record in found] == [record.kind for record in EVERY]
    assert found[2]["loss"] == 0.1 + 0.2
    assert read(folder / RECORDS) == found
    resumed = {"kind": "resume", "iteration": 3, "tick": 5, "shadows": None}
    assert of_kind(found, "resume") == [resumed]


def test_records_of_before_have_the_names_of_now(tmp_path: Path) -> None:
    """Redundant forwards were called shadow forwards."""
    step = json.loads(dumps(STEP))
    step["shadow_forwards"] = step.pop("redundant_forwards") + 7
    book = {"kind": "ledger", "ops": {"forwards": 12, "shadow_forwards": 7}}
    found = read(written(tmp_path, f"{json.dumps(step)}\n{json.dumps(book)}\n"))
    assert found[0]["redundant_forwards"] == 7 and "shadow_forwards" not in found[0]
    assert found[1]["ops"] == {"forwards": 12, "redundant_forwards": 7}


def test_wherever_the_last_line_is_cut_it_is_left_out(tmp_path: Path) -> None:
    first, last = dumps(STEP), dumps(ResumeRecord(3, 5))
    for length in range(len(last)):
        found = read(written(tmp_path, f"{first}\n{last[:length]}"))
        assert [record["kind"] for record in found] == ["iteration"]
    assert len(read(written(tmp_path, f"{first}\n{last}"))) == 2


def test_a_line_cut_within_a_letter_is_left_out(tmp_path: Path) -> None:
    end = json.dumps({"kind": "end", "reason": "…"}, ensure_ascii=False).encode()
    assert read(written(tmp_path, dumps(STEP).encode() + b"\n" + end[:-4]))[1:] == []


@pytest.mark.parametrize("bad", ["{", '{"tick": 1}', "[]", "7", '"kind"', "null", "\ufffd"])
def test_any_other_line_that_is_no_record_is_refused(tmp_path: Path, bad: str) -> None:
    good = dumps(STEP)
    path = written(tmp_path, f"{good}\n{bad}\n{good}\n")
    with pytest.raises(BadInput, match=rf"{RECORDS}:2 is no record") as refused:
        read(path)
    assert "\n" not in str(refused.value)


def test_a_last_line_that_was_written_whole_is_not_cut_short(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=rf"{RECORDS}:2 is no record"):
        read(written(tmp_path, dumps(STEP) + "\n{\n"))


def test_empty_lines_and_files_are_no_records(tmp_path: Path) -> None:
    assert read(written(tmp_path, "")) == []
    assert len(read(written(tmp_path, f"\n{dumps(STEP)}\n\n"))) == 1


# --- recoveries ----------------------------------------------------------------------------------


def validation(tick: int, loss: float | None, **more: Any) -> dict[str, Any]:
    return {"kind": "validation", "iteration": tick, "tick": tick, "loss": loss, **more}


def recovery(tick: int, before: float | None, after: float | None) -> dict[str, Any]:
    return {
        "kind": "recovery",
        "tick": tick,
        "iteration": tick,
        "rebuilds": {"2.0": {"rule": "average"}, "2.1": {"rule": "average"}},
        "validation_before": before,
        "validation_after": after,
    }


def test_a_recovery_is_told_by_its_losses_and_how_long_it_took_to_be_back() -> None:
    records = [
        validation(20, 2.0),
        recovery(23, before=2.0, after=2.5),
        validation(40, 2.2),
        validation(60, 2.0),
        validation(80, 1.5),
    ]
    assert recoveries(records) == [
        {
            "tick": 23,
            "iteration": 23,
            "rules": {"2.0": "average", "2.1": "average"},
            "before": 2.0,
            "after": 2.5,
            "back_after": 37,
        }
    ]


def test_validations_before_the_recovery_do_not_count() -> None:
    records = [validation(20, 1.0), recovery(23, before=2.0, after=2.5)]
    assert recoveries(records)[0]["back_after"] is None


@pytest.mark.parametrize("before", [None, 1.0])
def test_a_run_that_is_not_back_says_so(before: float | None) -> None:
    records = [recovery(23, before, 2.5), validation(40, 2.2), validation(60, None)]
    assert recoveries(records)[0]["back_after"] is None


def test_each_recovery_stands_for_itself() -> None:
    records = [recovery(3, 2.0, 2.5), recovery(5, 3.0, 3.5), validation(10, 2.9)]
    records += [validation(20, 1.9)]
    assert [made["back_after"] for made in recoveries(records)] == [17, 5]


def test_an_exact_recovery_is_back_at_once() -> None:
    """Semantics 15: back is the first validation at or below before, that right after too."""
    records = [
        validation(20, 2.0),
        validation(23, 1.9, after_repair=True),
        recovery(23, before=2.0, after=1.9),
        validation(40, 1.8),
    ]
    assert recoveries(records)[0]["back_after"] == 0

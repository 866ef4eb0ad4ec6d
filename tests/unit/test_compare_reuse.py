"""Redundant computation takes the reference's curve, once that has been proved to be its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from checkfree.core.errors import RunFailed
from checkfree.core.records import of_kind, read
from checkfree.failures import Failure, write_trace
from checkfree.session.rehearsal import rehearse
from checkfree.study.folders import State, standing
from checkfree.study.plan import Cell
from checkfree.study.reuse import (
    ReusedRun,
    check_same_losses,
    reused_records,
    reused_runs,
    write_reused,
)
from tests.unit.comparisons import Lines, cells_of, loss_at, records_of

FAILURES = (Failure(3, 1),)


@pytest.fixture
def cells(tmp_path: Path) -> dict[str, Cell]:
    write_trace(FAILURES, tmp_path / "trace.json")
    words = [f"failures={tmp_path / 'trace.json'}", "validation.every=2"]
    return cells_of(tmp_path, ["redundant", "checkfree"], words, seeds=3)


def reused_run_of(cells: dict[str, Cell]) -> ReusedRun:
    return reused_runs(list(cells.values()))["redundant/seed-1"]


# --- which ---------------------------------------------------------------------------------------


def test_all_but_the_first_seed(cells: dict[str, Cell]) -> None:
    found = reused_runs(list(cells.values()))
    assert set(found) == {"redundant/seed-1", "redundant/seed-2"}
    run = found["redundant/seed-2"]
    places = [cell.place for cell in run.needs]
    assert places == ["no_failure/seed-2", "redundant/seed-0", "no_failure/seed-0"]


def test_all_but_the_first_rate(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, ["redundant"], rates=[5, 10], seeds=2)
    assert set(reused_runs(list(cells.values()))) == {
        "redundant/rate-10/seed-0",
        "redundant/rate-5/seed-1",
        "redundant/rate-10/seed-1",
    }


def test_each_variant_proves_itself_and_one_with_a_safety_net_trains(tmp_path: Path) -> None:
    names = ["redundant", "redundant(failures.stages=edges)"]
    other = "redundant(checkpoint.every=5)"
    cells = cells_of(tmp_path, [*names, other], seeds=2, rates=[5])
    assert set(reused_runs(list(cells.values()))) == {
        "redundant/rate-5/seed-1",
        "redundant-failures.stages-edges/rate-5/seed-1",
    }


# --- the proof -----------------------------------------------------------------------------------


def test_equal_losses_are_a_proof_up_to_where_the_run_ended(cells: dict[str, Cell]) -> None:
    cell, reference = cells["redundant/seed-0"], cells["no_failure/seed-0"]
    check_same_losses(cell, records_of(cell, 4, "failed", "lost"), records_of(reference))


def changed(records: Lines, iteration: int) -> Lines:
    """One loss in its last bit."""
    (step,) = (s for s in of_kind(records, "iteration") if s["iteration"] == iteration)
    place = records.index(step)  # type: ignore[arg-type]
    return [*records[:place], {**step, "loss": step["loss"] + 1e-15}, *records[place + 1 :]]


def test_a_single_other_bit_is_none(cells: dict[str, Cell]) -> None:
    cell, reference = cells["redundant/seed-0"], cells["no_failure/seed-0"]
    with pytest.raises(RunFailed, match=r"redundant, seed 0: .* at iteration 3, .*a bug"):
        check_same_losses(cell, changed(records_of(cell), 3), records_of(reference))


def test_another_machine_is_said_to_be_one(cells: dict[str, Cell]) -> None:
    cell, reference = cells["redundant/seed-0"], cells["no_failure/seed-0"]
    first, *rest = changed(records_of(cell), 0)
    with pytest.raises(RunFailed, match="not trained with the same torch"):
        check_same_losses(
            cell, [{**first, "versions": {"torch": "3"}}, *rest], records_of(reference)
        )


# --- what is reused ------------------------------------------------------------------------------


def test_a_reused_run_has_the_reference_s_losses_and_its_own_failures(
    cells: dict[str, Cell],
) -> None:
    run = reused_run_of(cells)
    reference = records_of(run.reference)
    found = reused_records(run, reference, rehearse(run.cell.config))
    assert found[0]["reused"] == "no_failure/seed-1"
    assert found[0]["config"]["recovery"]["name"] == "redundant"
    assert found[0]["data"] == reference[0]["data"]
    steps = of_kind(found, "iteration")
    assert [(s["tick"], s["loss"], s["tokens"]) for s in steps] == [
        (i, loss_at(i, 1), 64) for i in range(6)
    ]
    checks = [(v["iteration"], v["loss"], v["after_repair"]) for v in of_kind(found, "validation")]
    expected = [(i, loss_at(i, 1) + 0.1, False) for i in (0, 2, 4, 6)]
    assert checks == expected  # and none after a repair, which is exact
    (failure,), (recovery,) = of_kind(found, "failure"), of_kind(found, "recovery")
    assert (failure["tick"], failure["stages"]) == (3, [1])
    assert (recovery["validation_before"], recovery["validation_after"]) == (
        loss_at(2, 1) + 0.1,
        None,
    )
    assert {record.get("seconds") for record in found[1:]} == {None}
    assert (found[-1]["status"], found[-1]["iteration"], found[-1]["tick"]) == ("done", 6, 6)


def test_it_is_a_run_folder_that_counts_as_done(cells: dict[str, Cell]) -> None:
    run = reused_run_of(cells)
    made = write_reused(run, records_of(run.reference))
    found = standing(run.cell, None)
    assert found.state is State.DONE
    assert list(found.records) == made == read(run.cell.folder)
    trace = json.loads((run.cell.folder / "trace.json").read_text())
    assert trace == {"failures": [{"iteration": 3, "stage": 1}]}


def test_it_ends_where_its_strategy_could_not_go_on(tmp_path: Path) -> None:
    write_trace((Failure(4, 0), Failure(4, 1)), tmp_path / "trace.json")
    words = [f"failures={tmp_path / 'trace.json'}", "validation.every=2"]
    run = reused_run_of(cells_of(tmp_path, ["redundant"], words, seeds=2))
    found = reused_records(run, records_of(run.reference), rehearse(run.cell.config))
    assert len(of_kind(found, "iteration")) == 4
    assert (found[-1]["status"], found[-1]["iteration"]) == ("failed", 4)
    assert "iteration 4" in found[-1]["reason"]

"""What a comparison makes of its children's ends. The children here write no numbers."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from checkfree.cli.compare_display import CompareDisplay, RunProgress
from checkfree.config.load import load
from checkfree.core.errors import RunFailed
from checkfree.core.records import RECORDS
from checkfree.study.compare import _tell_apart
from checkfree.study.folders import CellStanding, State, crash_path, standing
from checkfree.study.plan import Cell
from checkfree.study.pool import Ended, slots
from checkfree.study.reuse import reused_runs
from checkfree.study.watcher import Watcher
from checkfree.study.work import REFUSED, Work
from tests.unit.comparisons import Lines, cells_of, config_record, records_of, write_run

REASON = "iteration 3: stage 2 is lost"

Child = Callable[[Cell], tuple[int, str]]


class FakePool:
    """One child at a time, which ends at once as ``child`` says."""

    def __init__(self, cells: dict[str, Cell], child: Child):
        self._cells, self._child = cells, child
        self.words: list[Sequence[str]] = []
        self.keys: tuple[str, ...] = ()

    @property
    def free(self) -> int:
        return 1 - len(self.keys)

    def start(self, key: str, words: Sequence[str]) -> None:
        self.words.append(words)
        self.keys = (key,)

    def ended(self) -> list[Ended]:
        (key,), self.keys = self.keys, ()
        code, said = self._child(self._cells[key])
        return [Ended(key, code, said.splitlines())]


def trains(cell: Cell) -> tuple[int, str]:
    write_run(cell, records_of(cell))
    return 0, ""


def work(
    cells: dict[str, Cell], child: Child = trains, reuse: bool = True
) -> tuple[Work, FakePool, str]:
    found = {place: standing(cell, None) for place, cell in cells.items()}
    made = Work(
        list(cells.values()),
        found,
        reused_runs(list(cells.values())) if reuse else {},
        lambda *_: None,
    )
    pool, text = FakePool(cells, child), io.StringIO()
    with CompareDisplay(Console(file=text, width=200)) as shown:
        shown.begin(len(cells), 0, made.iterations)
        made.run(pool, shown)  # type: ignore[arg-type]
    return made, pool, text.getvalue()


def test_only_what_is_missing_is_trained_and_what_stopped_goes_on(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, ["checkfree", "checkpoint"], ["failures.probability=0.1"])
    trains(cells["no_failure/seed-0"])
    stopped = write_run(cells["checkfree/seed-0"], records_of(cells["checkfree/seed-0"])[:3])
    (stopped / "resume/00000001").mkdir(parents=True)
    made, pool, text = work(cells)
    assert pool.words[0] == ["train", "--resume", str(stopped), "--quiet"]
    file = tmp_path / "runs/checkpoint/seed-0.yaml"
    assert pool.words[1] == ["train", str(file), "--quiet"]
    assert len(pool.words) == 2
    assert not file.exists()
    assert made.crashed == {}
    assert [line.split(",")[0] for line in text.splitlines()] == [
        "1/3  checkfree",
        "2/3  checkpoint",
    ]


def test_a_child_finds_the_cell_s_own_configuration(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, ["checkfree"], ["failures.probability=0.1"])

    def reads(cell: Cell) -> tuple[int, str]:
        file = cell.folder.with_name(cell.folder.name + ".yaml")
        assert load(file) == cell.config
        return trains(cell)

    assert work(cells, reads)[0].crashed == {}


def test_a_run_that_could_not_be_saved_is_a_result(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, ["checkfree"])

    def ends(cell: Cell) -> tuple[int, str]:
        write_run(cell, records_of(cell, 3, "failed", REASON))
        return 1, f"{REFUSED} {REASON}"

    made, _, text = work(cells, ends)
    assert made.crashed == {}
    assert f"ended at 3 ({REASON})" in text
    assert {standing(cell, None).state for cell in cells.values()} == {State.DONE}


def test_a_crash_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, ["checkfree", "checkpoint"])

    def crashes(cell: Cell) -> tuple[int, str]:
        if cell.label != "checkfree":
            return trains(cell)
        write_run(cell, records_of(cell, 3, "failed", "boom"))
        return 1, "Traceback …\nValueError: boom"

    made, pool, text = work(cells, crashes)
    assert made.crashed == {"checkfree, seed 0": "ValueError: boom"}
    assert len(pool.words) == 3
    assert "checkfree, seed 0: crashed: ValueError: boom" in text
    cell = cells["checkfree/seed-0"]
    assert "ValueError: boom" in crash_path(cell.folder).read_text()
    assert standing(cell, None).state is not State.DONE

    assert work(cells)[0].crashed == {}
    assert not crash_path(cell.folder).exists()
    assert standing(cell, None).state is State.DONE


def test_a_run_that_began_as_something_else_is_no_result(tmp_path: Path) -> None:
    """As auto does on a machine that has not the memory for its logs any more."""
    cells = cells_of(tmp_path, ["auto"])

    def without_logs(cell: Cell) -> tuple[int, str]:
        record, *rest = records_of(cell)
        if cell.label == "auto":
            record["config"]["recovery"]["log_memory"] = 0
        write_run(cell, [record, *rest])
        return 0, ""

    made, _, text = work(cells, without_logs)
    (why,) = made.crashed.values()
    assert "was trained with recovery.log_memory=0, this comparison has" in why
    assert "crashed: " in text


def test_killed_by_the_machine(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, ["no_failure"])
    assert work(cells, lambda cell: (-9, ""))[0].crashed == {"no_failure, seed 0": "exit code -9"}


# --- reused runs ---------------------------------------------------------------------------------


def test_redundant_trains_once(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, ["redundant"], ["validation.every=2"], seeds=3)
    made, pool, text = work(cells)
    assert len(pool.words) == 4
    assert made.crashed == {}
    assert len(text.splitlines()) == 6
    found = standing(cells["redundant/seed-2"], None)
    assert found.records[0]["reused"] == "no_failure/seed-2"


def test_redundant_trains_for_each_seed_when_asked(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, ["redundant"], seeds=2)
    assert len(work(cells, reuse=False)[1].words) == 4


def test_another_loss_fails_loudly(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, ["redundant"], seeds=2)

    def differs(cell: Cell) -> tuple[int, str]:
        records = records_of(cell)
        if cell.label == "redundant":
            records = [{**r, "loss": 0.0} if r.get("iteration") == 2 else r for r in records]
        write_run(cell, records)
        return 0, ""

    with pytest.raises(RunFailed, match=r"loss 0\.0 at iteration 2.*--train-redundant"):
        work(cells, differs)


def test_a_reference_that_diverged_lends_nothing(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, ["redundant"], seeds=2)

    def diverges(cell: Cell) -> tuple[int, str]:
        write_run(cell, records_of(cell, 3, "failed", "the loss is no number"))
        return 1, f"{REFUSED} the loss is no number"

    made, pool, _ = work(cells, diverges)
    assert (len(pool.words), made.crashed) == (4, {})


def test_what_a_loan_waits_for_in_vain_is_told(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, ["redundant"], seeds=2)

    def crashes(cell: Cell) -> tuple[int, str]:
        return (2, "no") if cell.place == "no_failure/seed-1" else trains(cell)

    crashed = work(cells, crashes)[0].crashed
    assert crashed["redundant, seed 1"] == "it needs no_failure, seed 1 and redundant, seed 0"


# --- children, and how far they are --------------------------------------------------------------


def test_slots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("checkfree.study.pool.cores", lambda: 6)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def made(workers: int | None, devices: Sequence[str], *words: str) -> list[dict[str, str]]:
        return slots(workers, devices, cells_of(tmp_path, ["none"], words)["none/seed-0"].config)

    assert made(None, ()) == [{"OMP_NUM_THREADS": "1"}] * 6
    assert made(None, (), "threads=4") == [{"OMP_NUM_THREADS": "4"}]
    assert len(made(2, ())) == 2
    assert len(made(None, (), "devices=cuda")) == 1
    shown = [slot["CUDA_VISIBLE_DEVICES"] for slot in made(3, ("cuda:1", "cuda:3"))]
    assert shown == ["1", "3", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert [s["CUDA_VISIBLE_DEVICES"] for s in made(None, ("cuda", "cuda:1"))] == ["4", "5"]


def test_progress_reads_what_is_new_and_starts_over_where_a_run_did(tmp_path: Path) -> None:
    cell = cells_of(tmp_path, ["none"])["none/seed-0"]
    run = RunProgress(cell.folder)
    run.update()
    assert run.loss is None
    failure = {"kind": "failure", "iteration": 1, "tick": 1}
    step = {"kind": "iteration", "iteration": 1, "loss": 2.5}
    folder = write_run(cell, [config_record(cell), failure, step])
    with open(folder / RECORDS, "a") as file:
        file.write('{"kind": "iteration", "iter')
        file.flush()
        run.update()
        assert (run.iteration, run.loss, run.failures) == (2, 2.5, 1)
        file.write('ation": 2, "loss": 2.25}\n')
    run.update()
    assert (run.iteration, run.loss, run.failures) == (3, 2.25, 1)
    replace(folder, [config_record(cell)])
    run.update()
    assert (run.iteration, run.loss, run.failures) == (0, None, 0)


def replace(folder: Path, records: Lines) -> None:
    """As a resumed run takes its records back."""
    draft = folder / "draft"
    draft.write_text("".join(json.dumps(record) + "\n" for record in records))
    draft.replace(folder / RECORDS)


def test_standings_are_kept_up_to_date(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, ["checkfree"])
    found = {place: CellStanding(State.NEW) for place in cells}
    heard = []
    made = Work(list(cells.values()), found, {}, lambda cell, records: heard.append(cell.place))
    made.run(FakePool(cells, trains), Watcher())  # type: ignore[arg-type]
    assert heard == list(cells)
    assert {standing.state for standing in found.values()} == {State.DONE}


def test_what_was_trained_elsewhere_is_told_before_the_rest_is(tmp_path: Path) -> None:
    """As with results from another machine."""

    class Notes(Watcher):
        def __init__(self) -> None:
            self.told: list[str] = []

        def note(self, text: str) -> None:
            self.told.append(text)

    cells = cells_of(tmp_path, ["checkfree"])
    first, *rest = cells.values()
    found = {cell.place: CellStanding(State.NEW) for cell in cells.values()}
    watcher = Notes()
    _tell_apart(list(cells.values()), found, watcher)
    assert watcher.told == []
    found[first.place] = CellStanding(State.DONE, records_of(first))
    _tell_apart(list(cells.values()), found, watcher)
    (note,) = watcher.told
    assert note.startswith("of what is trained already, torch was 2 at first, and is ")
    assert note.endswith(" here: bits may differ") and rest

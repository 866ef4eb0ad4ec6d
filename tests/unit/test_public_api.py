"""What is public: the list, what each name is, and that a program can use nothing else."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import checkfree

PUBLIC = {
    "what is done": "branch compare export load merge read resume simulate train verify",
    "what comes of it": (
        "BadInput Branching Comparison Config Exported Merged Outcome Run RunFailed Simulation "
        "__version__"
    ),
    "a strategy, and its words": (
        "Address BufferLimits Fresh Inexact Kind Mirror Op Rebuilding Recipe Refusal Repair Route "
        "Schedule Source StageState Strategy Transfer Upload View average_states neighbours "
        "repair_each"
    ),
    "other parts from outside": "Corpus DataConfig Document Failure Fleet Link Setting Skipped",
}
"""Whoever takes a name away breaks somebody's program."""

FUNCTIONS = PUBLIC["what is done"].split()
TINY: dict[str, Any] = {
    "iterations": 4,
    "stages": 3,
    "microbatches": 2,
    "batch": 1,
    "model": {"width": 8, "heads": 1, "hidden": 8, "blocks": 3, "context": 8},
    "validation": {"every": 2, "microbatches": 1},
    "resume": {"every": 2},
    "failures": {"scenario": "none"},
}


def test_the_list() -> None:
    names = [name for group in PUBLIC.values() for name in group.split()]
    assert sorted(names) == sorted(checkfree.__all__) == dir(checkfree)
    assert len(set(names)) == len(names)


def test_every_name_is_there_and_documented() -> None:
    for name in {*checkfree.__all__} - {"__version__", "Route", "Schedule", "Fresh"}:  # aliases
        assert (inspect.getdoc(getattr(checkfree, name)) or "").strip(), name
    assert checkfree.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="no attribute 'trainer'"):
        checkfree.trainer  # noqa: B018


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_tells_its_types_and_its_errors(name: str) -> None:
    function = getattr(checkfree, name)
    told = inspect.signature(function)
    assert told.return_annotation is not inspect.Parameter.empty
    assert all(p.annotation is not inspect.Parameter.empty for p in told.parameters.values())
    assert "Raises" in function.__doc__ and "BadInput" in function.__doc__
    after_the_first = list(told.parameters.values())[1:]
    positional = {"overrides", "allow"} if name in ("load", "resume") else set()
    assert all(
        p.kind is inspect.Parameter.KEYWORD_ONLY or p.name in positional for p in after_the_first
    )


def test_importing_it_imports_no_torch() -> None:
    program = (
        "import json, sys, checkfree; checkfree.load('demo'); checkfree.Strategy; checkfree.View; "
        "print(json.dumps([name for name in ('torch', 'rich', 'plotly') if name in sys.modules]))"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert json.loads(child.stdout) == [], child.stderr


def test_a_module_of_ours_hides_no_function() -> None:
    """``checkfree.simulate`` would be the module of that name once that was imported."""
    root = Path(checkfree.__file__).parent
    assert not {path.stem for path in root.iterdir()} & set(FUNCTIONS)


# --- a program that uses it ----------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def with_changes(**changes: Any) -> Mapping[str, Any]:
    return {**TINY, **changes}


def test_train_resume_read_and_verify(here: Path) -> None:
    run = checkfree.train(with_changes(out="run"))
    assert run.status == "done" and len(run.losses) == 4
    assert [r["loss"] for r in checkfree.read("run") if r["kind"] == "iteration"] == run.losses
    outcome = checkfree.verify("run")
    assert (outcome.iterations, outcome.difference) == (4, "")
    assert checkfree.resume("run").losses == run.losses  # of a run that is done, nothing more
    for wrong in ("nothing", here / "nothing"):
        with pytest.raises(checkfree.BadInput, match="nothing"):
            checkfree.read(wrong)
        with pytest.raises(checkfree.BadInput, match="nothing"):
            checkfree.verify(wrong)


def test_branch(here: Path) -> None:
    checkfree.train(with_changes(out="run"))
    found = checkfree.branch("run", at=2, stages=[2], rules=["copy", "zero"], gaps=[0, 1])
    assert [branch.rule for branch in found.branches] == ["copy", "zero"]
    assert all(isinstance(b.gap(1, found.trunk), float) for b in found.branches)
    with pytest.raises(checkfree.BadInput, match="stage 7"):
        checkfree.branch("run", at=2, stages=[7], rules=["copy"])


class Heard:
    """What a watcher hears, by kind."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *said: self.kinds.append(name)


def test_compare(here: Path) -> None:
    heard = Heard()
    failing = with_changes(failures={"scenario": "random", "probability": 0.2}, seed=3)
    found = checkfree.compare(
        failing,
        strategies=["checkfree(failures.stages=middle)", "redundant"],
        out="compared",
        watcher=heard,  # type: ignore[arg-type]
    )
    assert found.folder == Path("compared") and found.page.is_file() and not found.crashed
    labels = [row.group.label for row in found.rows]
    assert labels == ["no_failure", "checkfree(failures.stages=middle)", "redundant"]
    assert found.rows[0].last_validation is not None
    assert {"begin", "began", "ended"} <= set(heard.kinds)
    trained = checkfree.load(found.folder / "runs/redundant/seed-0/config.yaml")
    assert [made.label for made in checkfree.simulate(trained)] == ["no_failure", "redundant"]
    with pytest.raises(checkfree.BadInput, match="strategies"):
        checkfree.compare(TINY, strategies=[])
    with pytest.raises(checkfree.BadInput, match="compare=3: expected keys"):
        checkfree.compare({**TINY, "compare": 3})
    with pytest.raises(checkfree.BadInput, match="unknown strategy nobody"):
        checkfree.compare(TINY, strategies=["nobody"])


def test_simulate(here: Path) -> None:
    found = checkfree.simulate(
        with_changes(fleet={"name": "home"}), strategies=["checkpoint(interval=2)"], rates=[5]
    )
    assert [(made.label, made.rate) for made in found] == [
        ("no_failure", None),
        ("checkpoint(interval=2)", 5.0),
    ]
    assert all(made.seconds_per_iteration > 0 for made in found)
    assert checkfree.simulate(TINY)[0].runs[0].nodes == 4
    with pytest.raises(checkfree.BadInput):
        checkfree.simulate({"stages": "many"})


def test_strategies_that_are_compared_differ_in_their_own_code_alone(here: Path) -> None:
    found = checkfree.compare(with_changes(), strategies=["copy", "checkpoint"], out="alike")
    assert not [note for note in found.study.notes if "bits may differ" in note]

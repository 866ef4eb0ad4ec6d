"""The commands on the pages of the experiments: every record that is committed still counts as
done, so comparing again trains nothing, and makes the report. Scripts also train, in small."""

from __future__ import annotations

import csv
import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from checkfree.cli import main
from checkfree.cli.entry import parse
from checkfree.config.load import load
from checkfree.core.records import of_kind
from checkfree.study.folders import checked_records
from tests.docs.commands import ROOT, SMALL, commands, run_script

EVERY = sorted((ROOT / "experiments").glob("*/README.md"))
PAGES = [page for page in EVERY if commands(page)]
SCRIPTS = {page.parent.name: commands(page, "python") for page in EVERY if commands(page, "python")}
"""By experiment, the lines of its page that start a script, without ``python``."""


def ids(page: Path) -> str:
    return page.parent.name


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_its_commands(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "experiments" / page.parent.name
    shutil.copytree(page.parent, folder)
    monkeypatch.chdir(tmp_path)
    for words in commands(page):
        if "--results" in words:  # of one seed of each: pricing all takes minutes
            assert main([*words, "--seeds", "1"]) == 0
            out = tmp_path / words[words.index("--out") + 1]
            assert (out / "report.html").is_file() and not (out / "runs").exists()
            runs = [path.name for path in folder.glob("results/**/seed-*.jsonl.gz")]
            assert len({runs.count(name) for name in runs}) == 1, "some seeds lack a run"
        elif words[0] == "simulate":  # fewer iterations and seeds: the figures are not committed so
            few = ["1" if before == "--seeds" else word for before, word in pairwise(["", *words])]
            few = ["iterations=20" if word.startswith("iterations=") else word for word in few]
            assert main(few) == 0
        else:  # hours of training
            assert callable(parse(words).run)


def test_they_are_all_looked_at() -> None:
    told = {page.parent.name for page in PAGES if any("--results" in w for w in commands(page))}
    studies = (ROOT / "experiments").glob("*/results/study.json")
    assert told == {study.parts[-3] for study in studies}


def test_a_page_is_made_from_results_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As experiments/README.md has it; here of one run, for a whole study takes ten seconds."""
    results, kept = ROOT / "experiments" / "checkpoint_intervals" / "results", tmp_path / "results"
    (kept / "no_failure").mkdir(parents=True)
    for file in ("study.json", "no_failure/seed-0.jsonl.gz"):
        shutil.copy(results / file, kept / file)
    monkeypatch.chdir(tmp_path)  # where the other runs aren't found
    assert main(["report", "results", "--out", "page"]) == 0
    assert "no_failure  none      1 " in capsys.readouterr().out
    assert (tmp_path / "page" / "report.html").is_file()


# --- scripts -------------------------------------------------------------------------------------


@pytest.fixture
def experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all that they are made with and of what was found, in the current folder."""
    skip = shutil.ignore_patterns("__pycache__", "*.png")
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments", ignore=skip)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the processes that a script starts
    return tmp_path / "experiments"


@pytest.mark.parametrize("name", ["every_stage_fails", "late_losses"])
def test_what_was_replayed_ends_where_nothing_was_lost(name: str) -> None:
    """By the records that are committed: each loss of each iteration, in runs that were trained."""
    results, several = ROOT / "experiments" / name / "results", 0
    (replayed,) = results.glob("replay-wave_lag-4-copies-2-*")
    for seed in range(5):
        run, reference = (
            checked_records(folder / f"seed-{seed}.jsonl.gz")
            for folder in (replayed, results / "no_failure")
        )
        losses = [
            {step["iteration"]: step["loss"] for step in of_kind(records, "iteration")}
            for records in (run, reference)
        ]
        assert "reused" not in run[0] and len(losses[0]) == 400
        assert losses[0] == losses[1]
        made = [how["rule"] for r in of_kind(run, "recovery") for how in r["rebuilds"].values()]
        assert set(made) == {"replay"} and len(made) >= 16
        several += sum(len(record["stages"]) > 1 for record in of_kind(run, "failure"))
    assert several >= 1


def test_all_scripts_are_looked_at() -> None:
    trained = {"catching_up", "rungs", "shapes", "swap_similarity", "wire_formats"}
    assert SCRIPTS.keys() == {*trained, "faster"}


@pytest.mark.parametrize("name", ["catching_up", "rungs", "shapes", "wire_formats"])
def test_a_script_trains_nothing_again(
    name: str, experiments: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As shown. All that it makes of what is committed comes out as that was committed."""
    results = experiments / name / "results"
    found = {path.name: path.read_bytes() for path in results.iterdir()}
    (results / "table.csv").unlink(missing_ok=True)
    for script, *words in SCRIPTS[name]:
        run_script(Path(script), words, monkeypatch)
    assert not Path("runs").exists()
    assert {path.name: path.read_bytes() for path in results.iterdir()} == found


@pytest.mark.parametrize("name", ["rungs", "shapes"])
def test_what_a_study_would_train_is_a_configuration(name: str, experiments: Path) -> None:
    study = yaml.safe_load((experiments / name / "study.yaml").read_text())
    for own in study["trunks"].values():
        config = load(experiments / name / "config.yaml", (own or {}).get("words", "").split())
        assert max({**study, **(own or {})}["at"]) < config.iterations


def test_branches_are_trained_and_tabled(
    experiments: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In small, and one of each. What is there then is not trained again."""
    ((script, study, runs, *_),) = SCRIPTS["rungs"]
    shutil.rmtree(experiments / "rungs" / "results")
    small = {"at": [2], "stages": "3", "gaps": "0,2", "rules": ["zero", "uniform"]}
    small |= {"words": " ".join(SMALL)}
    Path(study).write_text(yaml.safe_dump({**small, "trunks": {"tiny": None}}))
    run_script(Path(script), [study, runs, "--seeds", "1"], monkeypatch)
    table = (experiments / "rungs" / "results" / "table.csv").read_text()
    rows = list(csv.DictReader(table.splitlines()))
    assert [(row["rule"], row["steps"]) for row in rows] == [
        (rule, steps) for steps in ("0", "2") for rule in ("zero", "uniform")
    ]
    assert all(float(row["gap"]) for row in rows) and not list(Path(runs).iterdir())
    shutil.rmtree(runs)
    run_script(Path(script), [study, runs, "--seeds", "1"], monkeypatch)
    assert (experiments / "rungs" / "results" / "table.csv").read_text() == table


def test_catching_up_in_few_iterations(experiments: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages are lost at two of them, in the second half."""
    (script, _, *words) = SCRIPTS["catching_up"][0]
    few = ["few", *words, "--iterations", "21", "--only", "1-bit deltas every 10, moved on"]
    run_script(Path(script), few, monkeypatch)
    (file,) = Path("few").iterdir()
    assert file.name.endswith("-of-21.json")
    (loss,) = json.loads(file.read_text())["losses"]
    assert 3 < loss < 5.6, "of 256 bytes, after 20 iterations"


def test_levers_are_worth_what_was_committed(
    experiments: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of them, of which the search for machines is none: it takes seconds."""
    (script, results), _ = SCRIPTS["faster"]
    two = ["as it is", "split backward, zb_h1"]
    run_script(Path(script), ["few", "--only", ";".join(two)], monkeypatch)
    told = json.loads((Path(results) / "levers.json").read_text())
    assert json.loads(Path("few/levers.json").read_text()) == {lever: told[lever] for lever in two}


def test_what_a_swarm_gained_is_what_is_simulated_now(
    experiments: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the profile that is committed; of the fleet that has ways to choose."""
    _, (script, results) = SCRIPTS["faster"]
    was = json.loads((Path(results) / "swarm.json").read_text())
    run_script(Path(script), [results, "--simulate", "--only", "wide"], monkeypatch)
    assert json.loads((Path(results) / "swarm.json").read_text()) == was
    for fleet in was.values():
        before = fleet["levers"]["as it is"]
        for lever in fleet["levers"].values():
            real, said = (lever[who] / before[who] for who in ("swarm", "simulated"))
            assert abs(real / said - 1) < 0.15


def test_wire_formats_in_few_iterations(experiments: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a format loses of a gradient shows at once, and that error feedback takes some back."""
    ((script, _, *words),) = SCRIPTS["wire_formats"]
    few = ["few", *words, "--seeds", "1", "--iterations", "22", "--only", "int4"]
    run_script(Path(script), few, monkeypatch)
    rows = [*csv.DictReader(Path("few/table.csv").read_text().splitlines())]
    assert [row["way"] for row in rows] == ["fp32", "int4"]
    assert float(rows[0]["gap"]) == 0 != float(rows[1]["gap"])
    off = json.loads(Path("few/seed-0.json").read_text())["fp32"]["errors"]
    assert 0 == off["fp32"] < off["bf16"] < off["int8"] < off["int8 there, int4 back"] < off["int4"]
    assert off["int8 there, int4 back, feedback"] < off["int8 there, int4 back"]


def test_how_alike_stages_are(experiments: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the runs that its page compares first, but small, and without those that are not read."""
    (compare,), ((script, runs, results),) = (
        commands(ROOT / "experiments" / "swap_similarity" / "README.md"),
        SCRIPTS["swap_similarity"],
    )
    read = "--strategies=no_failure,checkfree_plus(failures=none)"
    assert main([*compare, read, "--seeds=1", *SMALL]) == 0
    (experiments / "swap_similarity" / "results" / "cosines.csv").unlink()
    run_script(Path(script), [runs, results], monkeypatch)
    rows = list(csv.DictReader((Path(results) / "cosines.csv").read_text().splitlines()))
    assert {row["trained"] for row in rows} == {"in order", "ends swapped"} and len(rows) == 10
    assert all(-1 <= float(row["cosine"]) <= 1 for row in rows)

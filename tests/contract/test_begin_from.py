"""A new run that begins with an old one's state: however that was cut, wherever it stood."""

from __future__ import annotations

import io
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import checkfree
from checkfree.cli import main
from checkfree.cli.display import Display
from checkfree.config.load import build, load, merge
from checkfree.core.config import InitConfig
from checkfree.core.errors import BadInput
from checkfree.core.records import of_kind
from checkfree.messages.recorded import read_record
from tests.contract.small import text
from tests.tiny import Body, Edge, batches

MODEL = {"width": 16, "heads": 2, "hidden": 32, "blocks": 6, "context": 16}
CALM: dict[str, Any] = {
    "iterations": 12,
    "stages": 6,
    "microbatches": 3,
    "batch": 2,
    "model": MODEL,
    "failures": {"scenario": "none"},
    "validation": {"every": 6, "microbatches": 2},
    "resume": {"every": 4},
    "checkpoint": {"every": 6},
    "optimizer": {"clip_over": "global", "clip": 0.5},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run ``parent``, and the text that it was trained on."""
    folder = tmp_path_factory.mktemp("home")
    checkfree.train({**CALM, **data(folder), "out": str(folder / "parent")})
    return folder


def data(home: Path) -> dict[str, Any]:
    return {"data": text(home / "a.txt")["data"]}


@pytest.fixture
def begun(home: Path, tmp_path: Path) -> Callable[..., checkfree.Run]:
    """Trains a run that begins from ``parent``, with changes to its configuration."""

    def train(init: Any, *changes: dict[str, Any], out: str = "child") -> checkfree.Run:
        tree = {**CALM, **data(home), "out": str(tmp_path / out)}
        init = {"run": f"{home / 'parent'}{init}"} if isinstance(init, str) else init
        for change in ({"init": init}, *changes):
            tree = merge(tree, change)
        return checkfree.train(tree)

    return train


def losses(run: Path | checkfree.Run, kind: str = "iteration") -> list[float]:
    folder = run if isinstance(run, Path) else run.folder
    return [r["loss"] for r in of_kind(checkfree.read(folder), kind)]


Begun = Callable[..., checkfree.Run]


# --- the same course -----------------------------------------------------------------------------


def test_it_takes_the_course_that_the_other_would_have_taken(home: Path, begun: Begun) -> None:
    run = begun({"run": f"{home / 'parent'}@8", "data": "continue"}, {"iterations": 8})
    assert losses(run)[:4] == losses(home / "parent")[8:]
    record = run.records[0]
    assert record["init"] == {
        "run": str(home / "parent"),
        "iteration": 8,
        "kind": "snapshot",
        "sha256": record["init"]["sha256"],
        "stages": 6,
        "tokens": 8 * 3 * 2 * 16,
        "after": 8,
        "optimizer": True,
    }
    assert len(record["init"]["sha256"]) == 64


def test_a_grandchild_goes_on_where_its_parent_had_come(home: Path, begun: Begun) -> None:
    child = begun({"run": f"{home / 'parent'}@4", "data": "continue"}, {"iterations": 4})
    again = {"run": f"{child.folder}@4", "data": "continue", "optimizer": False}
    grandchild = begun(again, {"iterations": 2}, out="grandchild")
    assert grandchild.records[0]["init"]["after"] == 8
    assert losses(grandchild)[0] == losses(home / "parent")[8]


def test_the_text_begins_in_tokens_whatever_an_iteration_has(home: Path, begun: Begun) -> None:
    twice = {"microbatches": 6, "iterations": 2}
    run = begun({"run": f"{home / 'parent'}@8", "data": "continue"}, twice)
    assert run.records[0]["init"]["after"] == 4
    same = begun({"run": f"{home / 'parent'}@8", "data": 8 * 3 * 2 * 16}, twice, out="same")
    other = begun({"run": f"{home / 'parent'}@8"}, twice, out="other")
    assert losses(run) == losses(same)
    assert losses(run) != losses(other)


# --- cut anew ------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [0.5, None])
@pytest.mark.parametrize("family", ["llama", "gpt"])
def test_one_state_cut_6_3_and_2_ways_is_the_same_model(
    clip: float | None, family: str, home: Path, begun: Begun, tmp_path: Path
) -> None:
    shape = {"model": {**MODEL, "family": family, "tied": family == "gpt"}}
    parent = tmp_path / "parent"
    whole = checkfree.train({**CALM, **data(home), **shape, "out": str(parent)})
    found = []
    for stages in (6, 3, 2):
        change = {**shape, "stages": stages, "optimizer": {"clip": clip}, "iterations": 10}
        run = begun({"run": f"{parent}@12"}, change, out=f"cut-{stages}")
        assert (run.folder / f"init/00000000/stage-{stages}.safetensors").is_file()
        found.append(losses(run))
        assert losses(run, "validation")[0] == pytest.approx(
            losses(whole, "validation")[-1], abs=1e-6
        )
    for cut in found[1:]:
        assert cut[0] == pytest.approx(found[0][0], abs=1e-6)
        assert cut == pytest.approx(found[0], abs=1e-5)


def test_it_trains_on_through_failures_with_replicas_at_another_precision(begun: Begun) -> None:
    lost = {"failures": {"scenario": "random", "probability": 0.1, "stages": [2]}}
    change = {"stages": 3, "replicas": 2, "precision": "fp64", "microbatches": 4}
    run = begun("@12", change, lost, {"recovery": {"name": "checkfree"}})
    assert run.status == "done"
    assert of_kind(run.records, "failure")
    assert next(run.stages[1].parameters()).dtype == torch.float64


# --- what is taken -------------------------------------------------------------------------------


def test_without_an_iteration_the_newest_and_of_that_the_most(
    home: Path, begun: Begun, tmp_path: Path
) -> None:
    def taken(run: Path, out: str) -> tuple[int, str]:
        init = begun({"run": str(run)}, {"iterations": 1}, out=out).records[0]["init"]
        return init["iteration"], init["kind"]

    assert taken(home / "parent", "weights") == (12, "weights")
    shutil.copytree(home / "parent", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped/weights")
    assert taken(tmp_path / "stopped", "snapshot") == (8, "snapshot")
    shutil.rmtree(tmp_path / "stopped/resume")
    assert taken(tmp_path / "stopped", "checkpoint") == (6, "checkpoint")


def test_final_weights_alone(home: Path, begun: Begun, tmp_path: Path) -> None:
    shutil.copytree(home / "parent", tmp_path / "bare")
    for area in ("resume", "checkpoint"):
        shutil.rmtree(tmp_path / "bare" / area)
    run = begun({"run": str(tmp_path / "bare")}, {"iterations": 1, "stages": 3})
    init = run.records[0]["init"]
    assert (init["kind"], init["iteration"], init["optimizer"]) == ("weights", 12, False)
    assert losses(run, "validation")[0] == pytest.approx(
        losses(home / "parent", "validation")[-1], abs=1e-6
    )
    with pytest.raises(BadInput, match=r"has no moments of an optimizer: init.optimizer=false"):
        begun({"run": str(tmp_path / "bare"), "optimizer": True}, out="no")


def test_with_the_optimizer_or_without(begun: Begun) -> None:
    with_it = begun("@8", {"iterations": 2})
    without = begun("@8", {"iterations": 2, "init": {"optimizer": False}}, out="without")
    assert [run.records[0]["init"]["optimizer"] for run in (with_it, without)] == [True, False]
    assert losses(with_it)[0] == losses(without)[0]
    assert losses(with_it)[1] != losses(without)[1]
    sgd = {"optimizer": {"name": "sgd", "lr": 0.01}, "iterations": 2}
    assert begun("@8", sgd, out="sgd").records[0]["init"]["optimizer"] is False


def test_muons_moments_go_along_into_another_cut(home: Path, begun: Begun, tmp_path: Path) -> None:
    """The course is the same in either cut, for gradients are clipped over all stages."""
    muon = {"optimizer": {"name": "muon", "lr": 1e-3}}
    parent = checkfree.train(merge({**CALM, **data(home), "out": str(tmp_path / "parent")}, muon))
    after = {"run": f"{parent.folder}@8", "data": "continue"}
    same = begun(after, muon, {"iterations": 4}, out="same")
    assert losses(same) == losses(parent)[8:]
    cut = begun(after, muon, {"iterations": 4, "stages": 3}, out="cut")
    assert losses(cut) == pytest.approx(losses(parent)[8:], abs=1e-3)
    anew = {**after, "optimizer": False}
    bare = begun(anew, muon, {"iterations": 4, "stages": 3}, out="bare")
    assert abs(losses(bare)[3] - losses(parent)[11]) > 1e-3
    assert [run.records[0]["init"]["optimizer"] for run in (same, cut, bare)] == [True, True, False]


@pytest.mark.parametrize(
    ("init", "change", "told"),
    [
        ("@5", {}, r"no state of iteration 5 stands there: there are .*8 \(snapshot\).*12 \(weig"),
        ("@8", {"model": {"heads": 4}}, r"model.heads=4, that one had 2: set model.heads=2"),
        ("@8", {"model": {"hidden": 48}}, r"model.hidden=48, that one had 32"),
        ("@8", {"model": {"blocks": 12}}, r"model.blocks=12, that one had 6"),
        ("@8", {"model": {"vocabulary": 300}}, r"embed_tokens.weight has shape \[256, 16\], this"),
        ("@8", {"model": {"family": "gpt"}}, r"model.family=gpt, that one had llama"),
        ("@8", {"stages": 4}, r"stages is 4, which does not cut model.blocks 6"),
        (
            "@8",
            {"optimizer": {"name": "sgd"}, "init": {"optimizer": True}},
            r"optimizer.name=sgd, that one had adam.*init.optimizer=false",
        ),
        (
            "@8",
            {"optimizer": {"name": "muon"}, "init": {"optimizer": True}},
            r"optimizer.name=muon, that one had adam.*init.optimizer=false",
        ),
        ("@8", {"init": {"data": "middle"}}, r"init.data=middle: expected start, continue"),
        ("@8", {"init": {"data": -1}}, r"init.data=-1: expected start, continue"),
        ("nowhere", {}, r"parentnowhere is no run folder: give the out=FOLDER of a run"),
        ({"run": "/dev/null"}, {}, r"init=/dev/null is no run folder"),
        ({"run": ""}, {}, r"init is empty: give init=RUN"),
        ({"run": "~nobody-here/x"}, {}, r"init=~nobody-here/x is no run folder"),
        ({"data": "continue"}, {}, r"init.data goes with a run to begin from: give init=RUN"),
        ({"optimizer": True}, {}, r"init.optimizer goes with a run to begin from"),
    ],
)
def test_what_is_refused_before_anything_is_written(
    init: Any, change: dict[str, Any], told: str, begun: Begun, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=told) as refused:
        begun(init, change)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "child").exists()


def test_other_data_are_not_gone_on_with(home: Path, begun: Begun, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text((home / "a.txt").read_text().replace("3", "4"))
    other = {"data": {"path": str(tmp_path / "b.txt")}}
    with pytest.raises(BadInput, match=r"this run has another: init.data=start"):
        begun({"run": str(home / "parent"), "data": "continue"}, other)
    assert begun("", other, {"iterations": 1}).status == "done"


def test_what_is_damaged_is_named(home: Path, begun: Begun, tmp_path: Path) -> None:
    shutil.copytree(home / "parent", tmp_path / "damaged")
    file = tmp_path / "damaged/resume/00000008/stage-2.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(BadInput, match=r"stage-2.safetensors is damaged.*give another ITERATION"):
        begun({"run": f"{tmp_path / 'damaged'}@8"})


def test_a_folder_whose_name_has_an_at(home: Path, begun: Begun, tmp_path: Path) -> None:
    shutil.copytree(home / "parent", tmp_path / "p@8")
    run = begun({"run": str(tmp_path / "p@8")}, {"iterations": 1})
    assert run.records[0]["init"]["iteration"] == 12
    run = begun({"run": f"{tmp_path / 'p@8'}@4"}, {"iterations": 1}, out="other")
    assert run.records[0]["init"]["iteration"] == 4


# --- once it has begun ---------------------------------------------------------------------------


def test_the_other_may_go(home: Path, begun: Begun, tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    shutil.copytree(home / "parent", parent)
    init = {"run": f"{parent}@8", "data": "continue"}
    run = begun(init, {"stages": 3, "resume": {"every": 2}})
    shutil.rmtree(parent)
    cut = tmp_path / "cut"  # as if it had been stopped before its first snapshot
    shutil.copytree(run.folder, cut)
    for area in ("resume", "weights", "checkpoint"):
        shutil.rmtree(cut / area)
    (cut / "records.jsonl").write_text(json.dumps(run.records[0]) + "\n")
    assert losses(checkfree.resume(cut)) == losses(run)
    assert checkfree.verify(run.folder).difference == ""
    made = checkfree.branch(run.folder, at=6, stages=[2], rules=["checkfree"], gaps=[0, 2])
    assert made.branches[0].readings
    kept = checkfree.verify(run.folder, out=tmp_path / "again")
    assert kept.difference == "" and (tmp_path / "again/init/00000000/manifest.json").is_file()


def test_a_damaged_copy_of_it_does_not_matter_once_there_is_a_snapshot(begun: Begun) -> None:
    run = begun("@8", {"iterations": 8})
    (run.folder / "init/00000000/stage-1.safetensors").write_bytes(b"")
    shutil.rmtree(run.folder / "weights")
    assert losses(checkfree.resume(run.folder)) == losses(run)
    with pytest.raises(BadInput, match=r"init/00000000/stage-1.safetensors"):
        checkfree.verify(run.folder)


def test_what_half_a_run_has_left_is_not_begun_from(home: Path, begun: Begun) -> None:
    """Killed while it copied: the folder has a state, and no records."""
    first = begun("@8", {"iterations": 2})
    for path in first.folder.iterdir():
        if path.name != "init":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = begun("@4", {"iterations": 2})
    assert losses(again) == losses(begun("@4", {"iterations": 2}, out="alone"))
    assert again.records[0]["init"]["iteration"] == 4
    assert checkfree.verify(again.folder).difference == ""


# --- of a user's own modules ---------------------------------------------------------------------


class Counting(Body):
    """With a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.rand(1))

    def forward(self, hidden: Tensor) -> Tensor:
        made: Tensor = super().forward(hidden) * self.scale
        return made


def test_own_modules(tmp_path: Path) -> None:
    def stages(seed: int, count: int = 3) -> list[nn.Module]:
        torch.manual_seed(seed)
        return [Edge(), *(Counting() for _ in range(count))]

    def train(out: str, modules: list[nn.Module], **init: Any) -> checkfree.Run:
        about = {"iterations": 6, "microbatches": 2, "resume": {"every": 3}, "init": init}
        about |= {"out": str(tmp_path / out), "failures": {"scenario": "none"}}
        return checkfree.train(about, stages=modules, batches=batches(0, "train"))

    first = train("first", stages(1))
    second = train("second", stages(2), run=str(tmp_path / "first@3"))
    assert second.losses[0] != first.losses[0]
    for one, other in zip(first.stages, second.stages, strict=True):
        named = dict(other.named_buffers())
        assert all(torch.equal(b, named[n]) for n, b in one.named_buffers())
    with pytest.raises(BadInput, match=r"it had 3 body stages, these are 2"):
        train("third", stages(2, 2), run=str(tmp_path / "first"))
    with pytest.raises(BadInput, match=r"init.data=continue counts tokens"):
        train("fourth", stages(2), run=str(tmp_path / "first"), data="continue")
    with pytest.raises(BadInput, match=r"init.data=500 counts tokens"):
        train("fifth", stages(2), run=str(tmp_path / "first"), data=500)


# --- words ---------------------------------------------------------------------------------------


def test_as_one_word(tmp_path: Path) -> None:
    assert load(None, ["init=runs/a@20"]).init == InitConfig("runs/a@20")
    assert load(None, ["init=0123", "init.optimizer=false"]).init == InitConfig("0123", False)
    assert load(None, ["init=runs/a", "init=null"]).init == InitConfig()
    file = tmp_path / "c.yaml"
    file.write_text("init: 0123\n")
    assert load(file).init == InitConfig("0123")
    file.write_text("init: {run: runs/b, data: continue}\n")
    assert load(file, ["init.optimizer=true"]).init == InitConfig("runs/b", True, "continue")
    file.write_text("init:\n")
    assert load(file).init == InitConfig()
    assert build({"init": None}).init == InitConfig()


def test_in_a_comparison(home: Path, tmp_path: Path) -> None:
    init = {"run": f"{home / 'parent'}@8", "data": "continue"}
    about = {**CALM, **data(home), "iterations": 4, "stages": 3, "init": init}
    lost = {"scenario": "random", "probability": 0.2, "stages": [2]}
    study = tmp_path / "study"
    found = checkfree.compare({**about, "failures": lost}, strategies=["checkfree"], out=study)
    assert not found.crashed
    files = sorted(study.rglob("records.jsonl"))
    first = [
        next(r["loss"] for r in checkfree.read(f.parent) if r["kind"] == "iteration") for f in files
    ]
    assert len(files) == 2
    assert first == pytest.approx([losses(home / "parent")[8]] * 2, abs=1e-6)


def test_a_line_says_so(home: Path, begun: Begun) -> None:
    run = begun({"run": f"{home / 'parent'}@8", "data": "continue"}, {"stages": 3, "iterations": 1})
    record, out = read_record(run.records[0]), io.StringIO()

    def said(*words: str) -> str:
        console = Console(file=out, width=80, highlight=False)
        Display(load(run.folder / "config.yaml", words), console)(record)
        return out.getvalue().splitlines()[-1]

    assert said() == (
        f"begins from {home / 'parent'} at iteration 8 (snapshot): weights and optimizer, "
        "training text from iteration 8 on; 6 stages cut into 3"
    )
    assert said("optimizer.clip_over=stage").endswith(
        "cut into 3, each of which clips its gradients by itself: other losses than uncut"
    )


# --- after a loss that is no number ---------------------------------------------------------------


def test_a_run_that_has_gone_too_far_says_how_to_begin_before_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command is there to be copied, and brings back a run that trains."""
    monkeypatch.chdir(tmp_path)
    about = {**CALM, **data(home), "resume": {"every": 2}, "iterations": 8, "stages": 3}
    wild = {"lr": 1e20, "clip": None}
    run = checkfree.train(merge({**about, "out": "runs/too far"}, {"optimizer": wild}))
    assert run.status == "failed"
    command = run.reason.partition("from before it: ")[2]
    assert command.startswith("checkfree train 'runs/too far/config.yaml' 'init=runs/too far@0' ")
    assert run.records[-1]["reason"] == run.reason
    words = [*shlex.split(command)[1:], "optimizer.lr=1e-3", "--quiet"]
    assert main(words) == 0
    assert "8 iterations in runs/too far-anew" in capsys.readouterr().out


# --- where it lies is no identity -----------------------------------------------------------------


@pytest.fixture
def moving(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the parent, in a folder to run in."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(home / "parent", tmp_path / "parent")
    return tmp_path / "parent"


def compared(home: Path, parent: object, iterations: int = 2, **more: Any) -> checkfree.Comparison:
    tree = {**CALM, **data(home), "iterations": iterations, "init": {"run": str(parent)}}
    tree["seed"] = 1  # and so other data than its parent's
    return checkfree.compare(tree, strategies=["checkfree"], out="compared", workers=1, **more)


@pytest.mark.parametrize("results", [None, "results"])
def test_a_comparison_whose_parent_has_moved(
    home: Path, moving: Path, tmp_path: Path, results: str | None
) -> None:
    compared(home, moving, results=results)
    folder = tmp_path / "compared"
    if results is not None:  # nothing else is left
        shutil.rmtree(folder / "runs")
    cells = {path: path.read_bytes() for path in folder.rglob("records.jsonl")}
    assert len(cells) == (2 if results is None else 0)
    moved = moving.rename(tmp_path / "elsewhere")
    for word in (moved, f"{moved}@12", "elsewhere"):
        compared(home, word, results=results)
    assert cells == {path: path.read_bytes() for path in folder.rglob("records.jsonl")}
    compared(home, moving, results=results)  # which is gone, and not needed
    with pytest.raises(BadInput, match=r"was trained from another state than init\.run"):
        compared(home, f"{moved}@4", results=results)
    shutil.rmtree(moved)
    with pytest.raises(BadInput, match=r"was trained with init\.run"):
        compared(home, moved, results=results)


def test_another_run_in_its_place_is_another_state(home: Path, moving: Path) -> None:
    compared(home, moving)
    shutil.rmtree(moving)
    checkfree.train({**CALM, **data(home), "seed": 3, "iterations": 12, "out": str(moving)})
    with pytest.raises(BadInput, match=r"was trained from another state than init\.run"):
        compared(home, moving)


def test_a_run_whose_parent_has_moved_goes_on(
    home: Path, moving: Path, begun: Begun, tmp_path: Path
) -> None:
    run = begun({"run": str(moving)}, {"iterations": 4, "resume": {"every": 2}})
    config = run.folder / "config.yaml"
    shutil.rmtree(run.folder / "weights")

    def named(word: Path | str) -> None:
        tree = load(config)
        config.write_text(config.read_text().replace(str(tree.init.run), str(word)))

    asked: dict[str, Any] = {"at": 2, "stages": [2], "rules": ["checkfree"], "gaps": [0, 1]}
    first = checkfree.branch(run.folder, **asked)
    trained = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("branches/*/records.jsonl")}
    named(moving.rename(tmp_path / "elsewhere"))
    assert losses(checkfree.resume(run.folder)) == losses(run)
    assert checkfree.branch(run.folder, **asked) == first and trained
    assert trained == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("branches/*/records.jsonl")}
    for word in (f"{tmp_path}/elsewhere@4", f"{tmp_path}/nowhere"):
        named(word)
        with pytest.raises(BadInput, match=r"config.yaml has init.run=.*put it back"):
            checkfree.resume(run.folder)

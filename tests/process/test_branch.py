"""``checkfree branch``: every branch is the run that would have been, and costs what it says."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import checkfree
from checkfree.cli import main
from checkfree.config.load import load
from checkfree.core.errors import RunFailed
from checkfree.core.records import RECORDS, IterationRecord, Record
from checkfree.messages.control import RESUME
from checkfree.report.branches import Branch, Branching
from checkfree.runtime.recorder import Listener
from checkfree.study.branch import branch_as
from checkfree.study.branching.request import BranchRequest
from tests.chaos import SOAK
from tests.process.command import losses, prepare

AT = 20
OWN = {"iteration": 7, "stage": 3}
RULES = ("redundant", "replay", "checkfree", "checkpoint(interval=8)", "random", "copy")


def train(name: str, *failures: dict[str, int], words: Sequence[str] = ()) -> Path:
    """A finished run of 40 iterations that loses these stages."""
    Path(f"{name}.json").write_text(json.dumps({"failures": failures}))
    given = [f"out={name}", f"failures={name}.json", "recovery=checkfree", *words]
    return checkfree.train(load("small.yaml", given)).folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``run`` is, which lost a stage of its own at iteration 7 and one at 30."""
    made = prepare(tmp_path_factory.mktemp("branch"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        train("run", OWN, {"iteration": 30, "stage": 2})
    return made


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(folder)
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def quiet(label: str, iterations: int) -> Listener:
    def ignore(record: Record) -> None:
        pass

    return ignore


def ask(out: str, *, run: str = "run", rules: Sequence[str] = RULES) -> BranchRequest:
    return BranchRequest(Path(run), AT, (2,), tuple(rules), (0, 4, 10), out=Path(out))


@pytest.fixture(scope="module")
def grown(folder: Path) -> Branching:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return branch_as(ask("grown"), quiet)


def of(found: Branching, rule: str) -> Branch:
    (made,) = (b for b in found.branches if b.rule == rule)
    return made


# --- what branches are ---------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["redundant", "replay"])
def test_an_exact_rule_costs_nothing(grown: Branching, rule: str) -> None:
    exact = of(grown, rule)
    assert sorted(exact.readings) == list(range(0, 11, 2))
    assert {exact.gap(steps, grown.trunk) for steps in exact.readings} == {0.0}


def test_other_rules_cost_something(grown: Branching) -> None:
    for rule in ("checkfree", "random", "copy"):
        gaps = [of(grown, rule).gap(steps, grown.trunk) for steps in grown.gaps]
        assert None not in gaps
        assert 0.0 not in gaps
    assert of(grown, "checkfree").made == "weighted average of 1 and 3"


def test_a_branch_is_the_run_with_that_failure(grown: Branching) -> None:
    whole = losses(train("whole", OWN, {"iteration": AT, "stage": 2}))
    branched = losses(Path("grown/branches/stage-2_checkfree"))
    assert branched == {i: whole[i] for i in range(AT, AT + 10)}


def test_the_trunk_is_the_run_until_that_lost_a_stage(grown: Branching) -> None:
    run = losses(Path("run"))
    assert losses(Path("grown/branches/uninterrupted")) == {i: run[i] for i in range(AT, AT + 10)}
    assert losses(Path("grown/trunk")) == {i: run[i] for i in range(AT)}


def test_a_run_of_another_processor_is_said_to_be_one(grown: Branching, folder: Path) -> None:
    """Its losses come out the same all the same, or it would be refused."""
    assert grown.notes == ()
    shutil.copytree("run", "elsewhere")
    lines = Path("elsewhere", RECORDS).read_text().splitlines(keepends=True)
    (place,) = [n for n, line in enumerate(lines) if '"kind": "process"' in line]
    record = json.loads(lines[place])
    lines[place] = json.dumps({**record, "equipment": {**record["equipment"], "cpu": "X"}}) + "\n"
    Path("elsewhere", RECORDS).write_text("".join(lines))
    found = branch_as(ask("from elsewhere", run="elsewhere", rules=["copy"]), quiet)
    (note,) = found.notes
    assert note.startswith("The run was not all trained on what its branches were: cpu was X at ")


def test_a_checkpoint_takes_the_run_back(grown: Branching) -> None:
    made = of(grown, "checkpoint(interval=8)")
    assert made.rolled_back == AT % 8
    assert made.readings[made.rolled_back] == grown.trunk[0]
    assert made.readings[10] == grown.trunk[10 - made.rolled_back]


def test_what_begins_earlier_is_read_no_more_often() -> None:
    rules = ["copy", "fit(fit_steps=2)", "shadow(shadow_format=int4,shadow_every=9)"]
    found = branch_as(ask("earlier", rules=rules), quiet)
    for run in found.branches:
        assert sorted(run.readings) == [0, 2, 4, 6, 8, 10]
    began = [losses(path) for path in sorted(Path("earlier/branches").glob("stage-2_*"))]
    assert [min(ticks) for ticks in began] == [20, 19, 9]


def test_what_is_put_aside_before_a_loss_is_trained_once(tmp_path: Path) -> None:
    """Branches of several stages begin where that led, and come out as each alone does."""
    trained = []

    def watch(label: str, iterations: int) -> Listener:
        trained.append((label, iterations))
        return quiet(label, iterations)

    def of_stages(*stages: int) -> tuple[Branch, ...]:
        rules, out = ("shadow", "fit(fit_steps=2)"), tmp_path / str(stages)
        return branch_as(
            BranchRequest(Path("run"), AT, stages, rules, (0, 4), out=out), watch
        ).branches

    alone = of_stages(1) + of_stages(3)
    assert ("stage 3, shadow", AT - 8 + 4) in trained
    trained.clear()
    assert of_stages(1, 3) == alone
    assert [pair for pair in trained if "shadow" in pair[0]] == [
        ("before a loss, shadow", AT - 8),
        ("stage 1, shadow", 4),
        ("stage 3, shadow", 4),
    ]
    prefixes = [path.name for path in (tmp_path / "(1, 3)/ways").iterdir()]
    assert sorted(prefixes) == ["fit-fit_steps=2_from_19", "shadow_from_8"]


def test_the_files(grown: Branching) -> None:
    tree = json.loads(Path("grown/branches.json").read_text())
    assert tree["config"]["recovery"]["name"] == "checkfree"
    assert tree["versions"]["torch"]
    assert len(Path("grown/branches.csv").read_text().splitlines()) == 1 + 3 * len(RULES)
    assert Path("grown/branches.png").stat().st_size > 1000


# --- where the state comes from ------------------------------------------------------------------


def interrupted(at: int) -> Listener:
    """A listener that ends its run with this tick."""

    def step(record: Record) -> None:
        if isinstance(record, IterationRecord) and record.tick == at:
            raise KeyboardInterrupt

    return step


def test_a_snapshot_saves_training_it_again(grown: Branching) -> None:
    """A run stopped at 26 has one of iteration 20, and of 15 and 25."""
    words = ["out=cut", "failures=run.json", "recovery=checkfree"]
    with pytest.raises(KeyboardInterrupt):
        checkfree.train(load("small.yaml", words), listeners=[interrupted(26)])
    trained = {}

    def watch(label: str, iterations: int) -> Listener:
        trained[label] = iterations
        return quiet(label, iterations)

    again = branch_as(ask("from-snapshot", run="cut", rules=["copy"]), watch)
    assert trained["the run, as it was"] == 0
    assert again.trunk == grown.trunk
    assert again.branches == (of(grown, "copy"),)


@pytest.mark.parametrize("damaged", [True, False])
def test_without_a_good_snapshot_it_is_trained_again(grown: Branching, damaged: bool) -> None:
    out = f"damaged-{damaged}"
    shutil.copytree("run", f"{out}-run")
    for shelf in Path(f"{out}-run/{RESUME}").iterdir():
        if damaged:
            shelf.rename(shelf.with_name("00000020"))
            break
        shutil.rmtree(shelf)
    found = branch_as(ask(out, run=f"{out}-run", rules=["copy"]), quiet)
    assert found.branches == (of(grown, "copy"),)


def test_another_run_under_the_same_name_is_refused() -> None:
    shutil.copytree("run", "changed")
    shutil.rmtree(Path("changed") / RESUME)
    records = Path("changed") / RECORDS
    lines = records.read_text().splitlines()
    place = next(n for n, line in enumerate(lines) if '"tick": 9,' in line and '"loss"' in line)
    step = json.loads(lines[place])
    lines[place] = json.dumps({**step, "loss": step["loss"] + 1e-9})
    records.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(RunFailed, match=r"tick 9 .*versions"):
        branch_as(ask("changed-branches", run="changed"), quiet)


# --- going on ------------------------------------------------------------------------------------


def test_a_run_that_was_repaired_from_shadows_is_taken_up(tmp_path: Path) -> None:
    """What its seats held at a snapshot is there again; a branch holds nothing yet."""
    words = ["recovery=auto(log_memory=0)", "resume.every=10"]
    train("shadowed", OWN, {"iteration": 32, "stage": 2}, words=words)
    rules = ("copy", "shadow(shadow_format=int4)", "auto", "fit")
    request = BranchRequest(Path("shadowed"), 34, (2,), rules, (0, 4), out=tmp_path / "out")
    found = branch_as(request, quiet)
    assert losses(tmp_path / "out/trunk") == {i: losses(Path("shadowed"))[i] for i in range(34)}
    assert [sorted(made.readings) for made in found.branches] == [[0, 2, 4]] * len(rules)


def test_only_what_is_missing_is_trained(grown: Branching) -> None:
    shutil.copytree("grown", "wider")
    trained = []

    def watch(label: str, iterations: int) -> Listener:
        trained.append(label)
        return quiet(label, iterations)

    found = branch_as(ask("wider", rules=[*RULES, "zero"]), watch)
    assert trained == ["stage 2, zero"]
    assert found.branches[: len(RULES)] == grown.branches


def test_a_stopped_command_goes_on(grown: Branching) -> None:
    def watch(label: str, iterations: int) -> Listener:
        return interrupted(AT + 5 if label == "stage 2, checkfree" else -1)

    with pytest.raises(KeyboardInterrupt):
        branch_as(ask("stopped"), watch)
    assert branch_as(ask("stopped"), quiet).branches == grown.branches
    for name in ("branches.csv", "branches.png"):
        assert Path("stopped", name).read_bytes() == Path("grown", name).read_bytes()


@pytest.mark.skipif(not SOAK, reason="10 seconds: CHECKFREE_SOAK=1")
def test_branches_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    """Those too that share what one of them trains first."""
    words = ["branch", "run", "--at", str(AT), "--stages", "1,3", "--gaps", "0,4", "--quiet"]
    words += ["--rules", "copy,fit(fit_steps=2)"]
    assert main([*words, "--out", "one"]) == 0
    assert main([*words, "--out", "two", "--workers", "2"]) == 0
    one, two = (text.replace("two/", "one/") for text in halves(capsys.readouterr().out))
    assert "copy of 2" in one
    assert one == two
    there, here = (
        {p.name: losses(p) for p in Path(f"{n}/branches").iterdir()} for n in ("one", "two")
    )
    assert here == there


def halves(text: str) -> tuple[str, str]:
    """What a command printed that ran twice."""
    middle = len(text) // 2
    return text[:middle], text[middle:]


# --- rules that need something -------------------------------------------------------------------


def test_refusals_and_marks() -> None:
    request = BranchRequest(
        Path("run"), AT, (1,), ("checkfree", "checkfree_plus"), (0,), out=Path("m")
    )
    checkfree, plus = branch_as(request, quiet).branches
    assert checkfree.readings == {}
    assert "edge" in checkfree.reason
    assert (plus.mark, plus.made) == ("run not swap-trained", "partner copy of 2")


def test_a_swapped_run_stays_swapped() -> None:
    train("swapped", words=["recovery=checkfree_plus"])
    found = branch_as(ask("swapped-b", run="swapped", rules=["redundant", "checkfree_plus"]), quiet)
    exact = of(found, "redundant")
    assert {exact.gap(steps, found.trunk) for steps in exact.readings} == {0.0}
    assert of(found, "checkfree_plus").mark == ""


# --- bad input -----------------------------------------------------------------------------------

GOOD = {"--at": "20", "--stages": "2", "--rules": "copy", "--gaps": "0,4"}
WRONG = [
    ("missing", {}, ("missing", "run folder")),
    ("run", {"--at": "41"}, ("--at 41", "came to 40")),
    ("run", {"--stages": "2,5"}, ("stage 5", "0 … 4")),
    ("run", {"--stages": "two"}, ("--stages two", "2,4")),
    ("run", {"--stages": ""}, ("--stages", "at least one")),
    ("run", {"--rules": "copy,hope"}, ("hope", "checkfree_plus")),
    ("run", {"--gaps": "10,0"}, ("--gaps 10,0", "ascending")),
    ("run", {"--seeds-of-reinit": "2"}, ("--seeds-of-reinit 2", "random")),
    ("run", {"--workers": "0"}, ("--workers", "at least 1")),
    ("run", {"--out": "text.txt/branches"}, ("text.txt/branches", "cannot be written")),
]


@pytest.mark.parametrize(("run", "changes", "parts"), WRONG)
def test_bad_input(
    capsys: pytest.CaptureFixture[str], run: str, changes: dict[str, str], parts: Sequence[str]
) -> None:
    options = [word for pair in {**GOOD, **changes}.items() for word in pair]
    assert main(["branch", run, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert [part for part in parts if part not in line] == [], line
    assert not Path("run-at-20").exists()


def test_branches_of_another_iteration_are_left_alone(
    grown: Branching, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [word for pair in {**GOOD, "--at": "16"}.items() for word in pair]
    assert main(["branch", "run", *options, "--out", "grown"]) == 2
    assert "another run or iteration" in capsys.readouterr().err

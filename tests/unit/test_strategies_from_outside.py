"""Strategies that are not of checkfree: installed ones, those of a user's own, and whose code may
run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import checkfree
from checkfree.cli import main
from checkfree.config.load import build, load, to_tree, to_yaml
from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.core.records import of_kind
from checkfree.plugins import packages
from checkfree.recovery.registry import spec_of
from checkfree.recovery.wrappers import make_strategy
from checkfree.session.sizes import recovery_of
from checkfree.session.swarm.release import offered, release
from checkfree.session.verify import verify
from tests.contract.small import small, text, trace
from tests.unit.outside import install, module

RULE = '''
from dataclasses import dataclass, replace
from checkfree.core.ops import Recipe, Refusal, Source
from checkfree.recovery.strategy import Rebuilding, Strategy, repair_each

@dataclass(frozen=True)
class Next(Strategy):
    """A copy of the next stage, grown."""

    by: float = 1.0
    exponent: float = 2.0

    def repair(self, lost, view, refused):
        def recipe(stage):
            seat = view.living(stage + 1)
            if seat is None or stage == 0:
                return Refusal(f"stage {stage} has no next one")
            return Recipe("next", (Source(seat, seat.stage, view.committed),))
        return repair_each(lost, view, recipe)

    def rebuild(self, seat, fresh, states):
        (state,) = states.values()
        for param in state.params.values():
            param.mul_(self.by)
        return Rebuilding(state)

class Plain(Next):
    """Without options of its own."""

class Short(Next):
    """What it makes of a stage lacks its parameters."""

    def rebuild(self, seat, fresh, states):
        return Rebuilding(replace(fresh(), params={}))

number = 7
'''


@pytest.fixture
def rules(tmp_path: Path) -> Iterator[Path]:
    """A folder to run in, with a module ``rules_of_mine``."""
    with module(tmp_path, "rules_of_mine", RULE) as folder:
        yield folder


@pytest.fixture
def installed(rules: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution that offers it as ``next_stage``, beside checkfree."""
    offers = {"checkfree.strategies/next_stage": "Next"}
    monkeypatch.syspath_prepend(install(rules, "rules_of_mine", "1.2", offers))
    return rules


def config(rules: Path, recovery: Any) -> Config:
    losses = trace(rules / "losses.json", (4, 2))
    changes = ({"failures": {"scenario": losses}}, {"resume": {"every": 3}}, text(rules / "text"))
    return small(rules / "run", *changes, {"recovery": recovery})


def options(made: Config) -> Any:
    return spec_of(made.recovery).make(made.recovery)


def test_it_trains_resumes_and_verifies(rules: Path) -> None:
    """A file of a user's, as a caller of the library names it."""
    named = {"name": "rules_of_mine:Next", "by": 0.5}
    tree = to_tree(config(rules, "none")) | {"recovery": named}
    run = checkfree.train(tree)
    assert run.status == "done", run.reason
    (made,) = of_kind(run.records, "recovery")
    assert {one["rule"] for one in made["rebuilds"].values()} == {"next"}
    with pytest.raises(BadInput, match="--allow rules_of_mine"):
        checkfree.resume(run.folder)
    assert checkfree.resume(run.folder, allow=["rules_of_mine"]).losses == run.losses
    with pytest.raises(BadInput, match="--allow rules_of_mine"):
        verify(run.folder)
    assert not verify(run.folder, allow=["rules_of_mine"]).difference


def test_what_it_makes_has_to_fit(rules: Path) -> None:
    tree = to_tree(config(rules, "none")) | {"recovery": "rules_of_mine:Short"}
    run = checkfree.train(tree)
    assert run.status == "failed"
    assert "2.0 could not be rebuilt: next: the state does not fit the stage" in run.reason


def test_commands_ask_for_leave(rules: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What to type next has it, too."""
    made = to_tree(config(rules, "none"))
    (rules / "own.yaml").write_text(to_yaml(build(made | {"recovery": "rules_of_mine:Next"})))
    assert main(["train", "own.yaml", "--quiet"]) == 2
    assert "if you trust it, --allow rules_of_mine" in capsys.readouterr().err
    assert main(["train", "own.yaml", "--quiet", "--allow", "rules_of_mine"]) == 0
    run = str(rules / "run")
    for words in (["verify", run, "--quiet"], ["report", run]):
        capsys.readouterr()
        asked = main(words)
        told = capsys.readouterr()
        assert "--allow rules_of_mine" in told.out + told.err
        assert asked == (2 if words[0] == "verify" else 0)
        assert main([*words, "--allow", "rules_of_mine"]) == 0
        assert "--allow" not in capsys.readouterr().out
    words = ["failures.scenario=none", "--strategies=rules_of_mine:Next", "iterations=3"]
    assert main(["simulate", "own.yaml", *words]) == 0
    assert main(["schedule", "own.yaml", "--allow=rules_of_mine"]) == 0


def test_what_a_file_names_does_not_run(rules: Path) -> None:
    (rules / "own.yaml").write_text("recovery: {name: 'rules_of_mine:Next', by: 2}\n")
    made = load("own.yaml")
    assert to_tree(made)["recovery"]["options"] == {"by": 2}
    with pytest.raises(BadInput, match="--allow rules_of_mine"):
        make_strategy(recovery_of(made))
    with pytest.raises(BadInput, match="--allow rules_of_mine"):
        checkfree.train(made)
    load("own.yaml", allow=["rules", "mine"])
    assert "rules_of_mine" not in sys.modules
    assert options(load("own.yaml", allow=["rules_of_mine"])).by == 2.0
    assert "rules_of_mine" in sys.modules


@pytest.mark.parametrize(
    ("word", "by", "exponent"),
    [
        ("rules_of_mine:Next", 1.0, 2.0),
        ("rules_of_mine:Next(by=3)", 3.0, 2.0),
        ("rules_of_mine:Next(by=3, recovery.by=4)", 4.0, 2.0),
        ("rules_of_mine:Next(exponent=1)", 1.0, 1.0),  # a key of ours, too
        ("rules_of_mine:Plain(by=2)", 2.0, 2.0),
    ],
)
def test_the_command_line_names_it(rules: Path, word: str, by: float, exponent: float) -> None:
    made = load(None, [f"recovery={word}"])
    rule = options(made)
    assert (rule.by, rule.exponent) == (by, exponent)
    again = build(to_tree(made))
    assert again == made
    (rules / "config.yaml").write_text(to_yaml(made))
    assert options(load("config.yaml", allow=["rules_of_mine"])).by == by


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("rules_of_mine:Next(bye=3)", "unknown key recovery.bye: .* its options are by, exponent"),
        ("rules_of_mine:Next(by=much)", "recovery.by=much: expected a number"),
        ("rules_of_mine:Last", "rules_of_mine has no Last"),
        ("rules_of_mine:number", "no subclass of checkfree's Strategy"),
        ("rules_of_yours:Next", "can't be imported .*: install it, or run where it lies"),
        ("next_stage", "recovery.name=next_stage: expected one of auto, shadow"),
        ("checkfree(code=os:system)", "unknown key recovery.code"),
        ("checkfree(options={by: 2})", "those of checkfree stand beside its name"),
        ("none(options={by: 2})", "recovery.options: none has none"),
    ],
)
def test_what_is_wrong_with_it_is_one_line(rules: Path, word: str, why: str) -> None:
    with pytest.raises(BadInput, match=why) as found:
        load(None, [f"recovery={word}"])
    assert "\n" not in str(found.value)


def test_an_installed_one_may_run_and_is_told_of(installed: Path) -> None:
    run = checkfree.train(config(installed, "next_stage(by=0.5)"))
    assert run.status == "done", run.reason
    assert checkfree.resume(run.folder).losses == run.losses
    assert not verify(run.folder).difference
    began = of_kind(run.records, "config")[0]
    assert began["config"]["recovery"]["name"] == "next_stage"
    assert began["versions"]["package rules_of_mine"].startswith("rules-of-mine 1.2 ")


def test_joiners_have_the_same_code(rules: Path) -> None:
    made = load(None, ["recovery=rules_of_mine:Next"])
    ours = release(made)
    assert (
        ours["package rules_of_mine"] == offered(allow=("rules_of_mine",))["package rules_of_mine"]
    )
    assert "package rules_of_mine" not in offered()
    assert ours.items() <= offered(allow=("rules_of_mine",)).items()
    pytest.importorskip("hivemind", reason="hivemind is not installed")
    from checkfree.runtime.swarm.joining.handshake import application, refusal
    from checkfree.runtime.swarm.placement.nodes import Node

    node = Node("n", "host")
    assert not refusal(application(offered(allow=("rules_of_mine",)), node), ours, True)
    told = refusal(application(offered(), node), ours, True)
    assert "not allowed here): have the same where" in told and "--allow rules_of_mine" in told


def test_packages_are_found_in_words() -> None:
    words = ("recovery=a.b:C(x=1)", "checkfree,d:E", "failures.stages=[2,3]", "out=runs/a")
    assert packages(words) == {"a", "d"}

"""Schedules, failure samplers, corpora, model families and fleets that are not of checkfree: from a
module of a user's own, from an installed package, and from nobody who was permitted."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import checkfree
from checkfree.cli import main
from checkfree.config.load import load, to_yaml
from checkfree.config.parts import named, origins, running
from checkfree.core.errors import BadInput
from checkfree.core.records import of_kind
from checkfree.session.verify import verify
from checkfree.simulator.fleet import fleet_of
from tests.unit.outside import install, module

MODULE = '''
from dataclasses import replace
from checkfree.data.documents import Corpus, Document
from checkfree.failures import Failure
from checkfree.models import llama
from checkfree.pipeline import gpipe
from checkfree.simulator.fleet import FLEETS

def all_forwards_first(routes):
    return gpipe(routes)

def every_fourth(setting):
    for tick in range(4, setting.ticks, 4):
        yield Failure(tick, setting.targets[tick % len(setting.targets)])

def verses(config):
    line = b"the lost stage of a neighbour is a mean "
    documents = [Document(line * (n + 1), f"verse {n}") for n in range(30)]
    return Corpus("verses 1", sum(len(d.text) for d in documents), lambda: iter(documents))

class Halved:
    """LLaMa with inner layers of half the width."""

    def stage(self, config, i, stages):
        return llama.stage(replace(config, hidden=2 * config.width), i, stages)

    def parameters_of(self, config):
        return llama.parameters_of(replace(config, hidden=2 * config.width))

halved = Halved()
cellar = replace(FLEETS["machine"], name="cellar", detection=0.25)
number = 7
'''
WORDS = {
    "schedule": "all_forwards_first",
    "failures.scenario": "every_fourth",
    "data.name": "verses",
    "model.family": "halved",
    "fleet.name": "cellar",
}
SMALL = (
    *("iterations=10", "stages=2", "microbatches=2", "batch=1", "validation.every=0", "out=run"),
    *("model.width=16", "model.heads=2", "model.blocks=2", "model.context=16"),
    *("failures.probability=0.1", "recovery=checkpoint(interval=2)", "data.validation_share=0.2"),
)


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Path]:
    """A folder to run in, with a module ``parts_of_mine``."""
    with module(tmp_path, "parts_of_mine", MODULE) as folder:
        yield folder


@pytest.fixture
def installed(mine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution that offers them all, beside checkfree."""
    groups = ("schedules", "samplers", "corpora", "families", "fleets")
    named = zip(groups, WORDS.values(), strict=True)
    offers = {f"checkfree.{group}/{name}": name for group, name in named}
    monkeypatch.syspath_prepend(install(mine, "parts_of_mine", "0.3", offers))
    return mine


def words(prefix: str = "parts_of_mine:") -> list[str]:
    return [*SMALL, *(f"{key}={prefix}{name}" for key, name in WORDS.items())]


def test_a_run_of_them_trains_resumes_and_verifies(mine: Path) -> None:
    config = load(None, words())
    assert running(config) == named(config) == {"parts_of_mine"}
    assert len(origins(config)) == len(WORDS)
    run = checkfree.train(config)
    assert run.status == "done", run.reason
    hit = [(f["tick"], f["seats"]) for f in of_kind(run.records, "failure")]
    assert [tick for tick, _ in hit] == [4, 8]
    began = of_kind(run.records, "config")[0]
    assert "package parts_of_mine" in began["versions"]
    assert began["parameters"] < checkfree_parameters(mine)
    assert fleet_of(config.fleet).detection == 0.25
    allow = ["parts_of_mine"]
    assert checkfree.resume(run.folder, allow=allow).losses == run.losses
    assert not verify(run.folder, allow=allow).difference


def checkfree_parameters(mine: Path) -> int:
    """Of the family that the one from outside is half of."""
    plain = [word for word in words() if not word.startswith("model.family")]
    run = checkfree.train(load(None, [*plain, "out=plain", "iterations=1"]))
    return int(of_kind(run.records, "config")[0]["parameters"])


@pytest.mark.parametrize("key", WORDS)
def test_what_a_file_names_does_not_run(mine: Path, key: str) -> None:
    """Nor is a folder made for it."""
    (mine / "plain.yaml").write_text(to_yaml(load(None, SMALL)))
    full = to_yaml(load("plain.yaml", [f"{key}=parts_of_mine:{WORDS[key]}"]))
    (mine / "own.yaml").write_text(full)
    sys.modules.pop("parts_of_mine")
    config = load("own.yaml")
    assert (running(config), named(config)) == (set(), {"parts_of_mine"})
    with pytest.raises(BadInput, match="if you trust it, --allow parts_of_mine") as found:
        checkfree.train(config) if key != "fleet.name" else fleet_of(config.fleet)
    assert f"{key}=parts_of_mine:{WORDS[key]}" in str(found.value)
    assert "\n" not in str(found.value)
    assert "parts_of_mine" not in sys.modules
    assert not (mine / "run").exists()
    assert running(load("own.yaml", allow=["parts_of_mine"])) == {"parts_of_mine"}


def test_installed_ones_may_run(installed: Path) -> None:
    config = load(None, words(prefix=""))
    assert not named(config)
    run = checkfree.train(config)
    assert run.status == "done", run.reason
    assert len(of_kind(run.records, "failure")) == 2
    versions = of_kind(run.records, "config")[0]["versions"]
    assert versions["package parts_of_mine"].startswith("parts-of-mine 0.3 ")
    assert not verify(run.folder).difference


def test_what_is_ours_names_nobody() -> None:
    for word in ("data.name=hf:somebody/texts", "data.name=hf:texts", "failures=runs/a:b/c.json"):
        config = load(None, [word])
        assert (named(config), running(config), origins(config)) == (set(), set(), ())


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("fleet.name=parts_of_mine:number", "fleet.name=.*: that is no Fleet"),
        ("model.family=parts_of_mine:number", "no family: it has no stage"),
        ("schedule=parts_of_mine:number", "no function from routes to a schedule"),
        ("data.name=parts_of_mine:number", "no function from a DataConfig to a Corpus"),
        ("failures=parts_of_mine:number", "no function from a Setting to failures"),
        ("failures=parts_of_mine:none_such", "parts_of_mine has no none_such"),
        ("data.name=parts_of_yours:verses", "can't be imported .*: install it, or run where"),
        ("schedule=zigzag", "schedule=zigzag: expected one of gpipe, 1f1b"),
        ("model.family=mamba", "model.family=mamba: expected one of llama, gpt"),
        ("fleet.name=cellar", "fleet.name=cellar: expected one of paper, datacenter"),
        ("data.code=parts_of_mine:verses", "unknown key data.code"),
        ("code=parts_of_mine:verses", "unknown key code"),
    ],
)
def test_what_is_wrong_with_one_is_one_line(mine: Path, word: str, why: str) -> None:
    with pytest.raises(BadInput, match=why) as found:
        load(None, [word])
    assert "\n" not in str(found.value)


def test_commands_take_them(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Told of in words, or allowed."""
    (mine / "own.yaml").write_text(to_yaml(load(None, words())))
    assert main(["schedule", "own.yaml"]) == 2
    assert "--allow parts_of_mine" in capsys.readouterr().err
    assert main(["schedule", "own.yaml", "--allow=parts_of_mine"]) == 0
    assert main(["failures", "sample", "own.yaml", "--allow=parts_of_mine"]) == 0
    capsys.readouterr()
    assert main(["simulate", "own.yaml", "--allow=parts_of_mine"]) == 0
    told = capsys.readouterr().out
    assert main(["simulate", "own.yaml", *words()]) == 0
    assert capsys.readouterr().out == told
    assert "cellar" in told

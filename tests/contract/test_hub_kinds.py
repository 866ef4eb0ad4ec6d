"""Strategies that make a lost stage of its neighbours, where those have layers of other kinds."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import checkfree
from checkfree.cli.display import Display
from checkfree.core.errors import BadInput
from checkfree.core.records import of_kind
from checkfree.models import hf
from checkfree.study.compare import compare
from checkfree.study.watcher import Watcher
from tests.contract.hub_models import LAYERS, folder_with
from tests.contract.test_hub_models import described
from tests.contract.test_hub_runs import hub_run, undrawn

__all__ = ["undrawn"]  # for all tests here, too

FULL, SLIDING = "full_attention", "sliding_attention"


@pytest.mark.parametrize(
    "name, kinds",
    [
        ("llama", [""] * LAYERS),
        ("mistral", [""] * LAYERS),
        ("mixtral", [""] * LAYERS),
        ("gemma2", [SLIDING, FULL] * 2),
        ("gemma3", [SLIDING, FULL] * 2),
        ("gpt_oss", [SLIDING, FULL] * 2),
        ("qwen2", [FULL, FULL, SLIDING, SLIDING]),
        ("smollm3", ["no_rope_layers=1"] * 3 + ["no_rope_layers=0"]),
    ],
)
def test_what_tells_layers_apart(name: str, kinds: list[str], tmp_path: Path) -> None:
    folder_with(name, tmp_path)
    assert hf.kinds_of_layers(described(tmp_path)) == kinds


def test_numbers_of_layers_are_no_kinds(tmp_path: Path) -> None:
    """``mlp_only_layers`` names four of four here."""
    folder_with("qwen2_moe", tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**told, "mlp_only_layers": [0, 1, 2, 3]}))
    assert hf.kinds_of_layers(described(tmp_path)) == [""] * LAYERS


def shown(tmp_path: Path, name: str, **keys: Any) -> tuple[str, str]:
    """What the display says at the start of a run, and the notes of its records."""
    folder_with(name, tmp_path / "model")
    config, seen = hub_run(tmp_path, "run", {"iterations": 1, **keys}), io.StringIO()
    with Display(config, Console(file=seen, width=400)) as display:
        run = checkfree.train(config, listeners=[display])
    notes = of_kind(run.records, "config")[0].get("notes", [])
    return seen.getvalue(), "\n".join(notes)


@pytest.mark.parametrize(
    "name, recovery, stages, apart, mend",
    [
        ("gemma2", "checkfree", 4, f"(layer 0 is {SLIDING}, layer 1 is {FULL})", "stages=2 has"),
        ("gpt_oss", "copy", 4, f"(layer 0 is {SLIDING}, layer 1 is {FULL})", "stages=2 has"),
        ("qwen2", "uniform", 2, f"(layer 0 is {FULL}, layer 2 is {SLIDING})", "no cut has"),
        ("smollm3", "fit", 4, "(layer 2 is no_rope_layers=1, layer 3 is no_rope", "no cut has"),
    ],
)
def test_averages_of_other_kinds_are_told(
    name: str, recovery: str, stages: int, apart: str, mend: str, tmp_path: Path
) -> None:
    out, notes = shown(tmp_path, name, recovery=recovery, stages=stages)
    assert out.count(notes) == 1 and "\n" not in notes
    assert notes.startswith(f"recovery={recovery} makes a lost stage of its neighbours, which")
    assert apart in notes and notes.endswith(f"{mend} them alike")


@pytest.mark.parametrize(
    "name, recovery, stages",
    [
        ("gemma2", "checkfree", 2),
        ("gemma2", "replay", 4),
        ("gemma2", "auto", 4),
        ("llama", "checkfree", 4),
    ],
)
def test_nothing_is_told_of_like_kinds_or_of_exact_strategies(
    name: str, recovery: str, stages: int, tmp_path: Path
) -> None:
    out, notes = shown(tmp_path, name, recovery=recovery, stages=stages)
    assert notes == "" and "neighbours" not in out


class Notes(Watcher):
    """Hears them."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def note(self, line: str) -> None:
        self.heard.append(line)


def compared(tmp_path: Path, name: str, stages: int) -> list[str]:
    folder_with(name, tmp_path / "model")
    config, watcher = hub_run(tmp_path, "run", {"iterations": 1, "stages": stages}), Notes()
    out, names = tmp_path / "compared", ["checkpoint", "uniform"]
    compare(config, strategies=names, out=out, workers=1, watcher=watcher)
    return watcher.heard


def test_compare_tells_it_and_refuses_unequal_stages_before_anything_is_trained(
    tmp_path: Path,
) -> None:
    heard = compared(tmp_path / "mixed", "gemma2", 4)
    assert sum("recovery=uniform makes a lost stage" in line for line in heard) == 1
    with pytest.raises(BadInput, match=r"^uniform: recovery.name=uniform makes a lost stage of"):
        compared(tmp_path / "unequal", "deepseek_v3", 4)
    assert not list((tmp_path / "unequal").glob("compared/runs/**/records.jsonl"))


def test_branch_tells_it_too_and_refuses_unequal_stages(tmp_path: Path) -> None:
    def branched(name: str) -> Any:
        folder_with(name, tmp_path / name / "model")
        kept = {"resume": {"every": 2}, "validation": {"every": 2, "microbatches": 1}}
        exact = {"recovery": "checkpoint", "iterations": 4, "stages": 4, **kept}
        run = checkfree.train(hub_run(tmp_path / name, "run", exact))
        return checkfree.branch(run.folder, at=2, stages=[2], rules=["uniform"], gaps=[1])

    told = [note for note in branched("gemma2").notes if note.startswith("recovery=uniform makes")]
    assert len(told) == 1
    with pytest.raises(BadInput, match=r"^--rules uniform: recovery.name=uniform makes a lost st"):
        branched("deepseek_v3")
    assert not list((tmp_path / "deepseek_v3").glob("**/branches"))
